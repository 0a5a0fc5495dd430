"""What the tests share: the configs they start from, and where they find the real MNIST."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from mnist_jax import train_loop
from mnist_jax.configs import default
from mnist_jax.data import tfds_source
from mnist_jax.data.load import load_dataset
from mnist_jax.runtime.errors import DatasetUnavailableError
from mnist_jax.train_step import Metrics, TrainState
from tests.workdirs import save_trained_checkpoint

ROOT = Path(__file__).parent.parent

AfterCall = Callable[[TrainState, Metrics], tuple[TrainState, Metrics]]

# TensorBoard's readers import TensorFlow, and some tests look at what is printed.
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

# As in equinox: an array that is broadcast to another rank by accident is an error.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The tests of a process compile the same few programs again and again.
_COMPILED = tempfile.TemporaryDirectory(prefix="mnist_jax_tests_")
jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def create_fake_config() -> ConfigDict:
    """A small job on data made in memory: some tenths of a second."""
    config = default.get_config()
    config.dataset = "fake"
    config.hidden_sizes = (16,)
    config.batch_size = 30  # 2,000 examples: batches span epochs.
    config.num_train_steps = 40
    config.steps_per_call = 10
    config.log_every_steps = 10
    config.eval_every_steps = 20
    config.checkpoint_every_steps = 20
    config.eval_batch_size = 300
    config.figures = False  # Half a second each.
    return config


@pytest.fixture
def fake_config() -> ConfigDict:
    return create_fake_config()


@pytest.fixture
def after_train_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[AfterCall | None], None]:
    """Installs a function that receives, and may change, the result of each device call.

    It is called with the state and the metrics, and returns them; None removes it.
    """
    real_train_steps = train_loop.train_steps

    def install(function: AfterCall | None) -> None:
        def train_steps(*args: Any, **kwargs: Any) -> tuple[TrainState, Metrics]:
            result = real_train_steps(*args, **kwargs)
            return function(*result) if function else result

        monkeypatch.setattr(train_loop, "train_steps", train_steps)

    return install


@pytest.fixture(scope="session")
def mnist_data_dir(pytestconfig: pytest.Config) -> str:
    """The data_dir of the real MNIST; skips the test where it is not available.

    By default that of TFDS; if MNIST is not there, a folder in pytest's cache, where the first
    run prepares it.
    """
    config = default.get_config()
    config.fallback_dataset = ""
    if not (tfds_source.data_dir(config) / "mnist").is_dir():
        config.data_dir = str(pytestconfig.cache.mkdir("tensorflow_datasets"))
    try:
        load_dataset(config)
    except DatasetUnavailableError as error:
        pytest.skip(f"needs the real MNIST: {error}")
    return str(tfds_source.data_dir(config))


@pytest.fixture
def mnist_config(mnist_data_dir: str) -> ConfigDict:
    """The tutorial's job on the real MNIST."""
    config = default.get_config()
    config.data_dir = mnist_data_dir
    config.fallback_dataset = ""
    return config


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dataset can be downloaded, and there are no original archives."""
    monkeypatch.delenv("MNIST_JAX_MANUAL_DIR", raising=False)
    for protocol in ("http", "https"):
        monkeypatch.setenv(f"{protocol}_proxy", "http://127.0.0.1:9")  # Nothing listens there.


@pytest.fixture(scope="session")
def trained_workdir(tmp_path_factory) -> Path:
    """A workdir with the checkpoint of `save_trained_checkpoint`; tests only read it."""
    folder = tmp_path_factory.mktemp("trained")
    save_trained_checkpoint(folder)
    return folder
