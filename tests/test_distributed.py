"""A run by several processes is the run by one: the same bits, files and ends."""

import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from mnist_jax import restoring
from mnist_jax.train_loop import create_eval_batches, evaluate
from tests import jobs
from tests.faults import processes
from tests.faults.test_preemption import read_until
from tests.workdirs import journal

ENDLESS = jobs.FIELDS | {"num_train_steps": 1_000_000}


@pytest.fixture(scope="module")
def of_two_by_two(tmp_path_factory) -> tuple[Path, list[processes.Ended]]:
    """A run by two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("job") / "run"
    return workdir, jobs.run(workdir, 2, 2)


def state(workdir: Path) -> dict[str, bytes]:
    return processes.remains(workdir).state


def test_the_first_process_alone_tells(of_two_by_two):
    workdir, (first, second) = of_two_by_two
    assert first.stdout.count("Test Data Eval") == 2
    assert [line for line in second.stdout.splitlines() if "Gloo" not in line] == []
    assert (first.stderr, second.stderr) == ("", "")
    assert len(list(workdir.glob("events.*"))) == 1
    assert [line["step"] for line in journal(workdir)] == [10, 20, 20, 30, 40, 40]


def test_four_devices_of_one_process_or_of_two(of_two_by_two, tmp_path: Path):
    """To the bit; also what is reported."""
    jobs.run(tmp_path, 1, 4)
    assert processes.remains(tmp_path) == processes.remains(of_two_by_two[0])


def test_a_checkpoint_of_four_devices_is_evaluated_on_one(of_two_by_two):
    workdir, _ = of_two_by_two
    assert jax.device_count() == 1
    model = restoring.restore(workdir)
    dataset = restoring.load_dataset(model.config)
    batches = create_eval_batches(dataset, model.config.eval_batch_size)
    results = evaluate(model.params, model.apply_fn, batches)
    last = journal(workdir)[-1]
    for split, result in results.items():
        assert result.accuracy == last[f"{split}/accuracy"]


def test_a_checkpoint_of_four_devices_is_resumed_on_two(of_two_by_two, tmp_path: Path):
    workdir = tmp_path / "run"
    shutil.copytree(of_two_by_two[0], workdir)
    longer = jobs.FIELDS | {"num_train_steps": 80}
    jobs.run_alone(workdir, 2, longer)
    jobs.run_alone(tmp_path / "whole", 1, longer)
    resumed, whole = processes.remains(workdir), processes.remains(tmp_path / "whole")
    assert resumed.steps == whole.steps
    for name, content in resumed.state.items():
        # Sums in another order: a few units in the last place a step.
        numbers, expected = (np.frombuffer(c, np.float32) for c in (content, whole.state[name]))
        np.testing.assert_allclose(numbers, expected, atol=1e-5)


def launch_by_mpirun(workdir: Path) -> None:
    mpirun = shutil.which("mpirun")
    if not mpirun:
        pytest.skip("needs mpirun, of Debian's openmpi-bin")
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    command = [*processes.train_command(workdir, jobs.FIELDS), "--distributed"]
    ended = processes.run([mpirun, *options, *command], env=jobs.devices(1))
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    assert ended.stdout.count("Test Data Eval") == 2


def test_mpirun_is_found_out_and_gives_the_bits_of_one_process(tmp_path: Path):
    launch_by_mpirun(tmp_path / "job")
    jobs.run_alone(tmp_path / "alone", 2)
    assert processes.remains(tmp_path / "job") == processes.remains(tmp_path / "alone")


@pytest.mark.long
@pytest.mark.parametrize(("num_processes", "num_devices"), [(2, 1), (4, 1), (4, 2)])
def test_any_number_of_processes(num_processes, num_devices, tmp_path: Path):
    jobs.run(tmp_path / "job", num_processes, num_devices)
    jobs.run(tmp_path / "one", 1, num_processes * num_devices)
    assert processes.remains(tmp_path / "job") == processes.remains(tmp_path / "one")


def test_sigterm_to_one_process_is_a_save_by_all(tmp_path: Path):
    job = jobs.start(tmp_path / "run", 2, 1, ENDLESS)
    read_until(job[0], "Step 30:")
    job[1].send_signal(signal.SIGTERM)
    first, second = jobs.ends(job)
    assert (first.returncode, second.returncode) == (143, 143)
    (step,) = processes.newest(tmp_path / "run")
    (line,) = first.stderr.splitlines()
    assert line.startswith(f"Stopped by SIGTERM after step {step}, which is saved; ")
    assert second.stderr == ""


def kill_one_and_start_again(folder: Path, num_processes: int, victim: int) -> None:
    job = jobs.start(folder / "killed", num_processes, 1, ENDLESS)
    read_until(job[0], "Step 30:")
    job[victim].kill()
    ended = jobs.ends(job, timeout=60)
    assert ended.pop(victim).returncode == -signal.SIGKILL
    for survivor in ended:
        assert survivor.returncode not in (0, -signal.SIGKILL), survivor
        # The runtime's own words, where it is faster.
        assert (
            "Another process of this job is gone" in survivor.stderr
            or "another task died" in survivor.stderr
        )
        assert "Traceback" not in survivor.stderr

    last = max(processes.newest(folder / "killed"), default=0)
    fields = jobs.FIELDS | {"num_train_steps": last - last % 20 + 40}
    jobs.run(folder / "killed", num_processes, 1, fields)
    jobs.run(folder / "whole", 1, num_processes, fields)
    config = processes.short_config()
    killed, whole = (
        processes.remains(folder / name, config).without_description()
        for name in ("killed", "whole")
    )
    assert killed == whole


def test_a_killed_process_ends_the_job_which_comes_back_to_the_same_bits(tmp_path: Path):
    kill_one_and_start_again(tmp_path, 2, victim=1)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 3])
def test_one_of_four_is_killed(victim, tmp_path: Path):
    kill_one_and_start_again(tmp_path, 4, victim)


@pytest.mark.long
def test_a_process_that_hangs_ends_the_job(tmp_path: Path):
    """No connection breaks: what tells is that its heartbeat is missing."""
    job = jobs.start(tmp_path, 2, 1, ENDLESS)
    read_until(job[0], "Step 30:")
    job[1].send_signal(signal.SIGSTOP)
    output = job[0].communicate(timeout=60)
    job[1].kill()
    jobs.ends(job[1:])
    assert job[0].returncode != 0
    assert "another task died" in output[1]


def test_what_the_first_process_is_refused_ends_all(tmp_path: Path):
    """Here the workdir: another run holds its lock."""
    job = jobs.start(tmp_path, 1, 1, ENDLESS)
    read_until(job[0], "Training on")
    first, second = jobs.ends(jobs.start(tmp_path, 2, 1, ENDLESS))
    assert (first.returncode, second.returncode) == (2, 2)
    assert f"in use by process {job[0].pid}" in first.stderr
    assert second.stderr == ""
    job[0].kill()
    jobs.ends(job)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process_id=0"], "add --distributed"),
        (["--distributed"], "give --coordinator_address"),
        (
            [
                "--distributed",
                "--coordinator_address=127.0.0.1:1",
                "--num_processes=2",
                "--process_id=2",
            ],
            "process_id",
        ),
    ],
)
def test_a_place_in_a_job_that_does_not_fit_is_refused(arguments, message, tmp_path: Path):
    command = [*processes.train_command(tmp_path / "run", jobs.FIELDS), *arguments]
    ended = processes.run(command)
    assert ended.returncode == 2, ended
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert not (tmp_path / "run").exists()
