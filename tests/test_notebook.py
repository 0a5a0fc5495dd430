"""The notebook: no outputs in git, and it runs from top to bottom."""

import json
import os
import re
import signal
import tomllib
from pathlib import Path

import nbformat
import pytest

from tests.conftest import ROOT

PATH = ROOT / "notebooks" / "mnist_jax.ipynb"

# The dependencies that Colab's runtimes already have, in versions that fit each other.
COLAB_HAS = {
    *["absl-py", "flax", "jax", "matplotlib", "numpy", "optax", "orbax-checkpoint", "pillow"],
    *["scipy", "tensorflow-datasets", "tqdm", "importlib_resources", "tensorboard"],
    *["tensorflow-cpu", "tensorflow"],  # There it is `tensorflow`, with its GPU support.
}


def read() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def test_is_valid_and_contains_no_outputs():
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_installs_what_colab_lacks_and_nothing_that_it_has():
    (line,) = re.findall(r"%pip install .*", PATH.read_text())
    assert "--no-deps ." in line  # Else pip would replace the runtime's jax.
    added = set(re.findall(r"[\w-]+", line.partition("--no-deps .")[2].rstrip('",\\n')))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    assert {name.replace("_", "-") for name in added} == {
        name.replace("_", "-") for name in needed - COLAB_HAS
    }
    assert needed >= COLAB_HAS


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The environment of the kernel; ends the TensorBoard that it starts."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield monkeypatch
    for file in tmp_path.glob(".tensorboard-info/*.info"):
        os.kill(json.loads(file.read_text())["pid"], signal.SIGTERM)


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # Jupyter's own.
@pytest.mark.parametrize("data", ["mnist", "none"])
def test_runs_from_top_to_bottom(data, environment, request, tmp_path):
    from nbclient import NotebookClient

    if data == "mnist":
        environment.setenv("TFDS_DATA_DIR", request.getfixturevalue("mnist_data_dir"))
    else:
        environment.delenv("MNIST_JAX_MANUAL_DIR", raising=False)
        environment.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
        environment.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # Nobody is there.
    notebook = read()
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, resources=folder).execute()

    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    printed = "".join(out.get("text", "") for out in outputs)
    dataset = "mnist" if data == "mnist" else "mnist_5k"
    assert f"Training on {dataset} " in printed
    assert printed.count("WARNING") == (data == "none")
    assert printed.count("Test Data Eval:") == 3  # Two in training, and of the checkpoint.
    accuracies = re.findall(r"Precision @ 1: ([\d.]+)", printed)
    assert accuracies[-1] == accuracies[-2]  # The best one is the last one.
    assert re.search(r"sure that it is a 7$", printed.strip())
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 5
    assert "iframe" in outputs[-1].data["text/html"]  # TensorBoard's.
