"""`python train.py`, as its users run it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.conftest import ROOT

SMALL = [
    "--config.dataset=fake",
    "--config.hidden_sizes=16",
    "--config.num_train_steps=40",
    "--config.log_every_steps=10",
    "--config.steps_per_call=10",
    "--config.eval_every_steps=20",
]


def command(*args: str, config: str = "configs/default.py") -> list[str]:
    return [
        sys.executable,
        str(ROOT / "train.py"),
        "--config",
        str(ROOT / config),
        *SMALL,
        *args,
    ]


def run(*args: str, cwd, **kwargs) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(*args, **kwargs), cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_without_a_workdir_a_new_run_folder_is_made_and_named(tmp_path):
    result = run(cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")  # And no progress bar.
    (workdir,) = (tmp_path / "runs/default").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}", workdir.name)
    assert f"in {workdir}" in result.stdout.splitlines()[0]
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"40"}


def test_a_terminal_gets_a_progress_bar_that_breaks_no_line(tmp_path):
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    process = subprocess.Popen(
        command("--workdir", "run"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=child,
        stderr=child,
    )
    os.close(child)
    output = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # Linux's way to say that the other side is closed.
            break
        output += part
    os.close(parent)
    assert process.wait() == 0
    text = output.decode()
    assert re.search(r"\d+%\|.*\| \d+/40 \[\d\d:\d\d<\S+ +\S+ steps/s\]", text)
    # As the terminal shows it: a carriage return writes over the line.
    shown = [line.rstrip("\r").split("\r")[-1] for line in text.split("\n")]
    for step in (10, 20, 30, 40):
        assert any(
            re.fullmatch(rf"Step {step}: loss = \d\.\d\d \([\d,]+ steps/s\)", x) for x in shown
        )
    assert sum(x == "Test Data Eval: [fake]" for x in shown) == 2
