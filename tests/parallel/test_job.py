"""A run by several processes is the run by one: the same bits, files and ends."""

import hashlib
import os
import shutil
import signal
import socket
from pathlib import Path

import jax
import numpy as np
import pytest

from mnist_jax import input_pipeline, restoring
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.data.load import load_dataset
from mnist_jax.eval_step import evaluate
from mnist_jax.parallel import job as job_lib
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import UserError
from mnist_jax.train_step import train_steps
from tests import jobs
from tests.faults import processes
from tests.faults.test_preemption import read_until
from tests.parallel.test_sharding import report
from tests.states import create_state
from tests.workdirs import contents, journal

ENDLESS = jobs.FIELDS | {"num_train_steps": 1_000_000}


@pytest.fixture(scope="module")
def of_two_by_two(tmp_path_factory) -> tuple[Path, list[processes.Ended]]:
    """A run by two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("job") / "run"
    return workdir, jobs.run(workdir, 2, 2)


def sha256(workdir: Path) -> str:
    leaves = processes.remains(workdir).state.values()
    return hashlib.sha256(b"".join(leaves)).hexdigest()


@pytest.mark.long
def test_only_the_first_process_prints_and_writes(of_two_by_two):
    workdir, (first, second) = of_two_by_two
    assert first.stdout.count("Test Data Eval") == 2
    # gloo itself prints its connections.
    for word in ("Training", "Step", "Eval"):
        assert word not in second.stdout
    assert (first.stderr, second.stderr) == ("", "")
    assert [line["step"] for line in journal(workdir)] == [0, 10, 20, 20, 30, 40, 40]


@pytest.mark.long
def test_a_checkpoint_of_four_devices_is_evaluated_on_one(of_two_by_two):
    workdir, _ = of_two_by_two
    assert jax.device_count() == 1
    model = restoring.restore(workdir)
    dataset = restoring.load_run_dataset(model)
    indices = input_pipeline.eval_indices(dataset.sizes, model.config.eval_batch_size)
    source = input_pipeline.DeviceExamples(dataset.examples)
    results, _ = evaluate(model.variables, model.model.apply, model.task, source, indices)
    last = journal(workdir)[-1]
    for split, result in results.items():
        assert result["accuracy"] == last[f"{split}/accuracy"]


@pytest.mark.long
def test_a_checkpoint_of_four_devices_is_resumed_on_two(of_two_by_two, tmp_path: Path):
    workdir = tmp_path / "run"
    shutil.copytree(of_two_by_two[0], workdir)
    jobs.run_alone(workdir, 2, jobs.FIELDS | {"num_train_steps": 60})
    # The same steps by this process's one device, for the sums' order to differ everywhere.
    config = processes.short_config()
    dataset = load_dataset(config)
    indices = input_pipeline.batch_indices(config.seed, range(1, 61), config.batch_size, 2000)
    expected, _ = train_steps(create_state(config), dataset.examples._asdict(), indices)
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.steps() == [20, 40, 60]
        resumed = checkpoints.restore(60, expected)
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("mpirun"), reason="needs mpirun (Debian: openmpi-bin)")
def test_mpirun_is_detected_and_gives_the_bits_of_one_process(tmp_path: Path):
    """Of the plain command on two devices: a sum of two has but one order."""
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    command = [*processes.train_command(tmp_path, jobs.FIELDS), "--distributed"]
    ended = processes.run(["mpirun", *options, *command], env=jobs.devices(1))
    assert (ended.returncode, jobs.without_waiting(ended.stderr)) == (0, ""), ended
    assert ended.stdout.count("Test Data Eval") == 2
    assert sha256(tmp_path) == report("2", jobs.FIELDS)["2"]["sha256"]


@pytest.mark.long
@pytest.mark.parametrize(("num_processes", "num_devices"), [(2, 1), (2, 2), (4, 1), (4, 2)])
def test_any_number_of_processes(num_processes, num_devices, tmp_path: Path):
    """To the bit, where all sum by gloo: JAX sums otherwise within a process that is alone."""
    jobs.run(tmp_path / "job", num_processes, num_devices)
    # Also what they report.
    jobs.run(tmp_path / "one", 1, num_processes * num_devices)
    assert processes.remains(tmp_path / "job") == processes.remains(tmp_path / "one")


@pytest.mark.long
def test_sigterm_to_one_process_is_a_save_by_all(tmp_path: Path):
    job = jobs.start(tmp_path / "run", 2, 1, ENDLESS)
    read_until(job[0], "Step 30:")
    job[1].send_signal(signal.SIGTERM)
    first, second = jobs.wait(job)
    assert (first.returncode, second.returncode) == (143, 143)
    (step,) = processes.newest(tmp_path / "run")
    (line,) = first.stderr.splitlines()
    assert line.startswith(f"Stopped by SIGTERM after step {step}, which is saved; ")
    assert second.stderr == ""


def kill_one(folder: Path, num_processes: int, victim: int) -> None:
    """Leaves the run in `folder/killed`."""
    job = jobs.start(folder / "killed", num_processes, 1, ENDLESS)
    read_until(job[0], "Step 30:")
    job[victim].kill()
    ended = jobs.wait(job, timeout=60)
    assert ended.pop(victim).returncode == -signal.SIGKILL
    for survivor in ended:
        assert survivor.returncode not in (0, -signal.SIGKILL), survivor
        # The runtime's own words, where it is faster.
        assert (
            "A process of this job is gone or failed" in survivor.stderr
            or "another task died" in survivor.stderr
        )
        assert "Traceback" not in survivor.stderr


@pytest.mark.long
def test_where_one_process_is_killed_the_other_ends(tmp_path: Path):
    kill_one(tmp_path, 2, victim=1)


@pytest.mark.long
@pytest.mark.parametrize(("num_processes", "victim"), [(2, 1), (4, 0), (4, 3)])
def test_a_killed_job_comes_back_to_the_same_bits(num_processes, victim, tmp_path: Path):
    kill_one(tmp_path, num_processes, victim)
    last = max(processes.newest(tmp_path / "killed"), default=0)
    fields = jobs.FIELDS | {"num_train_steps": last - last % 20 + 40}
    jobs.run(tmp_path / "killed", num_processes, 1, fields)
    jobs.run(tmp_path / "whole", 1, num_processes, fields)
    jobs.assert_same_runs(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.long
def test_a_hanging_process_ends_the_job(tmp_path: Path):
    """No connection breaks; the missing heartbeat reveals it."""
    job = jobs.start(tmp_path, 2, 1, ENDLESS)
    read_until(job[0], "Step 30:")
    job[1].send_signal(signal.SIGSTOP)
    output = job[0].communicate(timeout=60)
    job[1].kill()
    jobs.wait(job[1:])
    assert job[0].returncode != 0
    assert "another task died" in output[1]


@pytest.mark.long
def test_an_error_of_the_first_process_ends_all(tmp_path: Path):
    """Here the workdir, whose lock this process holds."""
    with run_folder.claim(tmp_path):
        first, second = jobs.wait(jobs.start(tmp_path, 2, 1, ENDLESS))
    assert (first.returncode, second.returncode) == (2, 2)
    assert f"in use by process {os.getpid()}" in first.stderr
    assert second.stderr == ""


@pytest.mark.long
def test_processes_that_were_given_different_configs_are_refused(tmp_path: Path):
    job = jobs.start(tmp_path / "run", 2, 1, extra={1: ["--config.seed=1"]})
    first, second = jobs.wait(job)
    assert (first.returncode, second.returncode) == (2, 2)
    assert first.stderr.startswith("config: process 1 and process 0 have different ones")
    assert (first.stderr.count("\n"), second.stderr) == (1, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_workdirs_on_different_file_systems_are_refused(tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    mount = f'mount -t tmpfs none {shared} && exec "$@"'
    alone = ["unshare", "-m", "sh", "-c", mount, "-"]
    if processes.run([*alone, "true"]).returncode:
        pytest.skip("needs the permission to mount")
    command = [*processes.train_command(shared / "run", jobs.FIELDS), *jobs.flags(2)]
    job = [
        processes.start([*prefix, *command, f"--process_id={i}"], env=jobs.devices(1))
        for i, prefix in enumerate([[], alone])
    ]
    first, second = jobs.wait(job)
    assert (first.returncode, second.returncode) == (2, 2)
    assert first.stderr.startswith(f"file system of workdir {shared / 'run'}: process 1 and ")
    assert (first.stderr.count("\n"), second.stderr) == (1, "")
    assert not list(shared.iterdir())


@pytest.mark.long
def test_only_the_first_process_falls_back(mnist_data_dir: str, tmp_path: Path):
    """Process 1 has no MNIST: its error ends process 0, too, which has it."""
    fields = jobs.FIELDS | {"dataset": "mnist", "manual_dir": tmp_path}
    job = jobs.start(
        tmp_path / "run",
        *(2, 1, fields),
        extra={
            0: [f"--config.data_dir={mnist_data_dir}"],
            1: [f"--config.data_dir={tmp_path}"],
        },
    )
    first, second = jobs.wait(job)
    assert (first.returncode, second.returncode) == (1, 2)
    assert "A process of this job is gone or failed" in first.stderr
    assert second.stderr.startswith("dataset: mnist is not prepared in ")
    assert (first.stderr.count("\n"), second.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_fewer_steps_than_those_of_the_newest_checkpoint(of_two_by_two, tmp_path: Path):
    workdir = tmp_path / "run"
    shutil.copytree(of_two_by_two[0], workdir)
    before = contents(workdir / "checkpoints")
    first, second = jobs.run(workdir, 2, 1, jobs.FIELDS | {"num_train_steps": 30})
    assert first.stdout.count("Test Data Eval") == 1
    assert (first.stderr, second.stderr) == ("", "")
    assert contents(workdir / "checkpoints") == before


def test_a_job_that_does_not_form_ends_with_one_line(tmp_path: Path):
    command = [*processes.train_command(tmp_path / "run", jobs.FIELDS), *jobs.flags(2)]
    ended = processes.run([*command, "--process_id=1", "--initialization_timeout=1"])
    assert (ended.returncode, ended.stdout) == (1, "")
    waiting, error = ended.stderr.splitlines()
    assert waiting.startswith("Waiting up to 1 s for the job at 127.0.0.1:")
    assert "(process 1 of 2, counted from 0) has not formed in 1 s; start all of" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize("process_id", [0, 1])
def test_a_signal_ends_a_process_that_waits_for_its_job(process_id, tmp_path: Path):
    command = [*processes.train_command(tmp_path / "run", jobs.FIELDS), *jobs.flags(2)]
    process = processes.start([*command, f"--process_id={process_id}"])
    assert process.stderr.readline().startswith("Waiting up to 60 s for the job at ")
    process.send_signal(signal.SIGTERM)
    (ended,) = jobs.wait([process], timeout=30)
    assert (ended.returncode, ended.stderr) == (143, "Stopped at once by SIGTERM\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process_id=0"], "add --distributed"),
        (["--distributed"], "give --coordinator_address"),
    ],
)
def test_job_flags_that_do_not_fit_are_refused(arguments, message, tmp_path: Path):
    command = [*processes.train_command(tmp_path / "run", jobs.FIELDS), *arguments]
    ended = processes.run(command)
    assert ended.returncode == 2, ended
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert not (tmp_path / "run").exists()


def check_place_is_refused(place: tuple[str, int, int], message: str) -> None:
    jax.devices()  # With its backend, this process can't become one of a job.
    with pytest.raises(UserError, match=message) as error, job_lib.join_job(*place, timeout=1):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["", "node1", "node1:", ":8476", "node1:0", "node1:65536", "node1:x", "node1:1e3"],
)
def test_a_wrong_coordinator_address_is_named(address):
    check_place_is_refused((address, 2, 1), "coordinator_address: .* is not HOST:PORT")


def test_a_process_id_beyond_the_number_of_processes_is_refused():
    check_place_is_refused(("node1:8476", 2, 2), "process_id: 2 is not below 2 processes")


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        message = f"coordinator_address: {address}: Address already in use .*; give each job"
        check_place_is_refused((address, 2, 0), message)


def test_one_process_needs_no_others():
    def refuse() -> None:
        raise UserError("no")

    assert job_lib.broadcast_from_first(lambda: 3) == 3
    assert job_lib.max_over_processes(7) == 7
    job_lib.assert_same_on_all_processes("anything", 3)
    with pytest.raises(UserError, match="no"):
        job_lib.broadcast_from_first(refuse)
