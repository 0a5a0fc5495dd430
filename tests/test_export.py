"""An exported model computes the same logits without this package."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mnist_jax import restoring
from tests.conftest import ROOT

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


def test_onnx_gives_the_same_logits(trained_workdir: Path, tmp_path: Path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    ended = export("--workdir", trained_workdir, "--output", file)
    assert ended.returncode == 0, ended.stderr
    session = onnxruntime.InferenceSession(file)
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    trained = restoring.restore(trained_workdir)
    expected = trained.model.apply(trained.variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "output: missing"),
        (["--output", "no/such/model"], "No such file or directory"),
        (["--output", "/dev/null"], "output: /dev/null: not a file; choose another"),
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
