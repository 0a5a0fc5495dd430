"""The notebook runs from top to bottom, and can be read without being run.

    python -m tests.test_notebook

runs it on the real MNIST and stores its outputs.
"""

import base64
import inspect
import io
import json
import os
import re
import signal
import tempfile
import tomllib
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from mnist_jax import models, train_step
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


def test_stored_outputs_are_complete_small_and_of_no_machine():
    notebook = read()
    nbformat.validate(notebook)
    assert all(cell.metadata == {} for cell in notebook.cells)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not any(out.output_type == "error" or out.get("name") == "stderr" for out in outputs)
    printed = "".join(out.get("text", "") for out in outputs)
    for function in (models.MLP, train_step.loss_fn, train_step.train_step):
        assert inspect.getsource(function) in printed, "run python -m tests.test_notebook"
    assert "Precision @ 1: 0.90" in printed
    assert "results.json" in printed
    assert set(re.findall(r"(?<!\S)/[^\s/]+/", printed)) == {"/content/"}  # Colab's.
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 5
    assert PATH.stat().st_size < 400_000


def test_ends_with_exercises_that_have_hints():
    exercises = [cell.source for cell in read().cells if cell.source.startswith("**")]
    assert [text[:4] for text in exercises] == ["**1.", "**2.", "**3."]
    assert all("*Hint:*" in text for text in exercises)


def test_installs_what_colab_lacks_and_nothing_that_it_has():
    (line,) = re.findall(r"%pip install .*", PATH.read_text())
    assert "--no-deps {SOURCE}" in line  # Else pip would replace the runtime's jax.
    added = set(re.findall(r"[\w-]+", line.partition("--no-deps {SOURCE}")[2].rstrip('",\\n')))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    assert {name.replace("_", "-") for name in added} == {
        name.replace("_", "-") for name in needed - COLAB_HAS
    }
    assert needed >= COLAB_HAS
    assert line.strip('%\\n",') in (ROOT / "README.md").read_text()


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


def store_outputs() -> None:
    """Runs the notebook, but not TensorBoard; its folder is named as on Colab."""
    from nbclient import NotebookClient

    os.environ["PYTHONPATH"] = str(ROOT)
    notebook = read()
    run = nbformat.from_dict(notebook)
    # The same cells, not copies: the outputs are stored in the notebook.
    run.cells = [cell for cell in notebook.cells if "%tensorboard" not in cell.source]
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(run, resources=place, coalesce_streams=True).execute()
    for cell in run.cells:
        cell.metadata.clear()  # The times.
        for out in cell.get("outputs", []):
            if "text" in out:
                out.text = out.text.replace(folder, "/content/mnist_jax")
            if "image/png" in out.get("data", {}):
                out.data["image/png"] = reduce_colors(out.data["image/png"])
    nbformat.write(notebook, PATH)


def reduce_colors(png: str) -> str:
    """Returns a base64 PNG with 64 colors: a third of the size."""
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.quantize(64).save(stream, "png", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


if __name__ == "__main__":
    store_outputs()
