"""SIGTERM and SIGINT at any moment: one line, the right exit code, nothing lost."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_jax.train_loop import train_and_evaluate
from tests.faults import processes

LONG_RUN = processes.SHORT_RUN | {"num_train_steps": 10_000_000}
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Reads the command's stdout up to a line that holds the text."""
    assert process.stdout
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended before {text!r}: {process.communicate()}")


@pytest.mark.parametrize(
    ("signum", "exit_code", "moment"),
    [(signal.SIGTERM, 143, "Step 50:"), (signal.SIGINT, 130, "Validation Data Eval")],
)
def test_training_saves_and_says_how_to_go_on(signum, exit_code, moment, tmp_path: Path):
    process = processes.start(processes.train_command(tmp_path / "run", LONG_RUN))
    read_until(process, moment)
    process.send_signal(signum)
    _, stderr = process.communicate()
    assert process.returncode == exit_code
    (line,) = stderr.splitlines()
    (step,) = processes.newest(tmp_path / "run")
    assert line == (
        f"Stopped by {signum.name} after step {step}, which is saved; go on with the same "
        f"command and --workdir {tmp_path / 'run'}"
    )
    config = processes.short_config()
    config.num_train_steps = step - step % 20 + 40
    for name in ("run", "whole"):
        train_and_evaluate(config, tmp_path / name)
    actual, expected = (
        processes.remains(tmp_path / name, config).without_description()
        for name in ("run", "whole")
    )
    # The step that was saved for the signal is among the checkpoints of the one alone.
    assert actual._replace(steps=[]) == expected._replace(steps=[])


# Prints, once the import of the module begins; so the signal comes in the middle of it.
_TELL = """
import runpy, sys
class Tell:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print("importing", flush=True)
sys.meta_path.insert(0, Tell())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("signum", "exit_code"), SIGNALS)
@pytest.mark.parametrize("module", ["jax", "optax", "mnist_jax.train_loop"])
def test_start_up_ends_with_one_line(module, signum, exit_code, tmp_path: Path):
    command = processes.train_command(tmp_path / "run", LONG_RUN)
    program = _TELL.format(module=module)
    process = processes.start([sys.executable, "-c", program, *command[1:]])
    read_until(process, "importing")
    process.send_signal(signum)
    _, stderr = process.communicate()
    assert process.returncode == exit_code
    assert stderr == f"Stopped at once by {signum.name}\n"
    assert not (tmp_path / "run").exists()


def test_a_second_sigint_stops_at_once(tmp_path: Path):
    # One endless device call: the first SIGINT has to wait for its end.
    fields = LONG_RUN | {"steps_per_call": 4_000_000}
    fields |= dict.fromkeys(
        ("log_every_steps", "eval_every_steps", "checkpoint_every_steps"), 4_000_000
    )
    process = processes.start(processes.train_command(tmp_path / "run", fields))
    read_until(process, "Training on")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "Stopped at once by SIGINT\n"


@pytest.mark.parametrize(("signum", "exit_code"), SIGNALS)
def test_evaluate_ends_with_one_line(signum, exit_code, tmp_path: Path):
    command = processes.evaluate_command(tmp_path)
    program = _TELL.format(module="jax").replace(
        "run_path(sys.argv[0]", "run_module(sys.argv[0]"
    )
    process = processes.start([sys.executable, "-c", program, *command[2:]])
    read_until(process, "importing")
    process.send_signal(signum)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (exit_code, f"Stopped at once by {signum.name}\n")
