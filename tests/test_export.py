"""An exported model computes the same outputs without this package."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mnist_jax import restoring
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.configs import default
from mnist_jax.data.load import load_dataset
from mnist_jax.runtime.manifest import Manifest
from tests.conftest import ROOT
from tests.states import create_state

RUN_STABLEHLO = """
import sys
import jax, numpy as np
content = bytearray(open(sys.argv[1], "rb").read())
logits = jax.export.deserialize(content).call(np.load(sys.argv[2]))
assert not any(name.startswith(("mnist_jax", "flax")) for name in sys.modules)
np.save(sys.argv[3], logits)
"""


def export(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mnist_jax", "export", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_stablehlo_gives_the_same_logits_in_a_process_without_this_package(
    trained_workdir: Path, tmp_path: Path
):
    file = tmp_path / "model.stablehlo"
    ended = export("--workdir", trained_workdir, "--output", file)
    assert (ended.returncode, ended.stderr) == (0, "")
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", RUN_STABLEHLO]
    paths = [file, tmp_path / "images.npy", tmp_path / "logits.npy"]
    subprocess.run([*command, *map(str, paths)], cwd=tmp_path, check=True)
    trained = restoring.restore(trained_workdir)
    expected = trained.model.apply(trained.variables, images)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def save(tmp_path: Path):
    """Saves a checkpoint of new networks, and returns its workdir."""

    def save_new(**fields: object) -> Path:
        config = default.get_config()
        config.update(dataset="mnist_5k", **fields)
        class_names = load_dataset(config).class_names
        with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
            checkpoints.save(create_state(config), Manifest(0, config, class_names, None))
        return tmp_path / "run"

    return save_new


@pytest.mark.parametrize(
    ("fields", "tolerance"),
    [
        ({"hidden_sizes": (30,)}, 1e-6),
        ({"hidden_sizes": (30,), "num_seeds": 3}, 1e-6),
        ({"model": "cnn"}, 1e-6),
        ({"model": "cnn", "num_seeds": 2}, 1e-6),
        ({"hidden_sizes": (30,), "dtype": "bfloat16"}, 2e-2),
    ],
    ids=str,
)
def test_onnx_gives_the_same_outputs(fields: dict, tolerance: float, save, tmp_path: Path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    workdir = save(**fields)
    ended = export("--workdir", workdir, "--output", tmp_path / "model.onnx")
    assert (ended.returncode, ended.stderr) == (0, "")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["step"] == "0"
    assert json.loads(metadata["class_names"]) == list("0123456789")
    for size in (1, 7):
        images = np.random.default_rng(0).integers(0, 256, (size, 28, 28), np.uint8)
        (outputs,) = session.run(["outputs"], {"inputs": images})
        expected = restoring.restore(workdir).outputs(images)
        assert np.abs(outputs - expected).max() <= tolerance * np.abs(expected).max()


OWN = """
import flax.linen as nn, jax.numpy as jnp

class Own(nn.Module):
    num_outputs: int

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(images.shape[0], -1).astype(jnp.float32)
        if not self.is_initializing():
            {statement}
        return nn.Dense(self.num_outputs)(x)
"""


@pytest.mark.parametrize(
    ("statement", "file", "message"),
    [
        ("x = x / (images.shape[0] > 1)", "model", "use images.shape[0]"),
        pytest.param(
            "x = jnp.linalg.eigvalsh(x.T @ x)[None] + x",
            "model.onnx",
            "or a FILE without .onnx",
            marks=pytest.mark.skipif(not find_spec("jax2onnx"), reason="needs jax2onnx"),
        ),
    ],
)
def test_what_an_own_model_does_is_one_line(statement, file, message, save, tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("{statement}", "pass"))
    own = f"{tmp_path}/own.py:Own"
    workdir = save(model=own)
    (tmp_path / "own.py").write_text(OWN.replace("{statement}", statement))
    ended = export("--workdir", workdir, "--model", own, "--output", tmp_path / file)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert message in ended.stderr
    assert not (tmp_path / file).exists()


@pytest.mark.parametrize("name", ["device", "link", "pipe", ".", "/"])
def test_what_is_not_a_file_is_not_replaced(name: str, trained_workdir: Path, tmp_path: Path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "device").symlink_to("/dev/stdout")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    ended = export("--workdir", trained_workdir, "--output", tmp_path / name)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "A link, or not a regular file; choose another" in ended.stderr
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "device").is_symlink()
    assert (tmp_path / "link").readlink() == Path("file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "output: missing"),
        (["--output", "no/such/model"], "No such file or directory"),
        (["--output", "/dev/null"], "output: /dev/null: A link, or not a regular file"),
        pytest.param(
            ["--output", "model.onnx"],
            "No module named 'jax2onnx'; README.md says",
            marks=pytest.mark.skipif(
                find_spec("jax2onnx") is not None, reason="it is installed"
            ),
        ),
    ],
)
def test_a_mistake_is_one_line(args: list[str], message: str, trained_workdir: Path):
    ended = export("--workdir", trained_workdir, *args)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert message in ended.stderr
