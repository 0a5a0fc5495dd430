"""Two processes that want the same folder."""

import gzip
import hashlib
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_jax.configs import default
from mnist_jax.data.load import load_dataset
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import UserError
from mnist_jax.train_loop import train_and_evaluate
from tests.faults import processes
from tests.faults.test_preemption import LONG_RUN, read_until
from tests.workdirs import contents

MANUAL_DIR = Path(os.environ.get("MNIST_JAX_MANUAL_DIR", "missing")).absolute()


def test_the_second_on_a_workdir_is_told_of_the_first(tmp_path: Path):
    workdir = tmp_path / "run"
    first = processes.start(processes.train_command(workdir, LONG_RUN))
    read_until(first, "Training on")
    with pytest.raises(UserError) as error:
        train_and_evaluate(processes.short_config(), workdir)
    assert f"in use by process {first.pid} on {socket.gethostname()}" in str(error.value)
    # Killed, it leaves its lock's file, which keeps nobody out.
    first.kill()
    first.communicate()
    assert str(first.pid) in (workdir / ".lock").read_text()
    config = processes.short_config()
    (newest,) = processes.newest(workdir) or [0]
    config.num_train_steps = newest + 20
    assert train_and_evaluate(config, workdir).step == config.num_train_steps
    assert (workdir / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_second_changes_nothing(tmp_path: Path):
    with run_folder.claim(tmp_path):
        before = contents(tmp_path)
        with (
            pytest.raises(UserError, match="is in use by process"),
            run_folder.claim(tmp_path),
        ):
            pass
        assert contents(tmp_path) == before


def prepare_command(data_dir: Path) -> list[str]:
    program = (
        "from mnist_jax.configs import default; "
        "from mnist_jax.data.load import load_dataset; "
        "config = default.get_config(); config.fallback_dataset = ''; "
        f"config.data_dir = {str(data_dir)!r}; load_dataset(config)"
    )
    return [sys.executable, "-c", program]


def digests(images: np.ndarray) -> set[bytes]:
    return {hashlib.sha256(image.tobytes()).digest() for image in images}


@pytest.mark.long
@pytest.mark.mnist
@pytest.mark.skipif(
    not (MANUAL_DIR / "train-images-idx3-ubyte.gz").is_file(),
    reason="needs MNIST's four files in MNIST_JAX_MANUAL_DIR",
)
def test_preparing_at_once_and_after_a_kill(tmp_path: Path):
    """One is killed at its work; then two begin together; all data is good afterwards."""
    killed = processes.start(prepare_command(tmp_path))
    assert killed.stderr
    for line in killed.stderr:
        if "Preparing" in line:
            break
    while not list(tmp_path.glob("mnist/*incomplete*")) and killed.poll() is None:
        pass
    killed.kill()
    killed.communicate()

    both = [processes.start(prepare_command(tmp_path)) for _ in range(2)]
    for process in both:
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    config = default.get_config()
    config.update(data_dir=str(tmp_path), fallback_dataset="")
    dataset = load_dataset(config)
    for part, images, size in (
        (
            "train",
            np.concatenate([dataset.splits["validation"].image, dataset.splits["train"].image]),
            60_000,
        ),
        ("t10k", dataset.splits["test"].image, 10_000),
    ):
        with gzip.open(MANUAL_DIR / f"{part}-images-idx3-ubyte.gz") as file:
            expected = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        assert len(images) == size
        assert digests(images) == digests(expected)
