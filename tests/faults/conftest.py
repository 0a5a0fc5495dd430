"""Complete runs to be damaged: a module says by its `config()` of what."""

import shutil
from pathlib import Path

import pytest

from mnist_jax.train_loop import train_and_evaluate


@pytest.fixture(scope="module")
def complete_run(request, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("complete") / "run"
    train_and_evaluate(request.module.config(), workdir)
    return workdir


@pytest.fixture
def run(complete_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(complete_run, tmp_path / "run")
