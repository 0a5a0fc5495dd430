"""The command `mnist-jax predict`."""

import csv
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from mnist_jax import restoring
from mnist_jax.commands.predict import main
from mnist_jax.configs import default
from mnist_jax.data.builtin import load_mnist_5k
from mnist_jax.tasks import Classification
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import ROOT
from tests.data.small_datasets import write_idx
from tests.images import draw_seven
from tests.workdirs import contents


@pytest.fixture
def images(tmp_path):
    """A folder with two sevens, a blank image and a text file."""
    draw_seven().save(tmp_path / "seven.png")
    draw_seven(300, "white", "black").save(tmp_path / "chalk.jpg")
    Image.new("L", (50, 50), 200).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("seven")
    return tmp_path


def predict(*args, folder) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mnist_jax", "predict", *map(str, args)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_unreadable_images_do_not_stop_the_others(trained_workdir, images):
    before = contents(trained_workdir)
    result = predict(
        "--workdir",
        trained_workdir,
        "seven.png",
        "blank.png",
        "text.png",
        "chalk.jpg",
        folder=images,
    )
    assert result.returncode == 2
    lines = result.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["seven.png: 7", "chalk.jpg: 7"]
    errors = result.stderr.splitlines()
    assert [line.split(":")[0] for line in errors] == ["blank.png", "text.png"]
    assert contents(trained_workdir) == before


def test_json_is_one_object_and_show_draws_a_figure(trained_workdir, images):
    two = Image.new("RGB", (400, 200))
    two.paste(draw_seven(), (0, 0))
    two.paste(draw_seven(), (200, 0))
    two.save(images / "two.png")
    copies = [f"{number}.png" for number in range(19)]
    for copy in copies:
        shutil.copy(images / "seven.png", images / copy)
    (images / "predictions.png").symlink_to("elsewhere.png")
    result = predict(
        "--workdir",
        trained_workdir,
        "--json",
        "--show",
        "seven.png",
        "two.png",
        *copies,
        folder=images,
    )
    assert result.returncode == 0
    assert result.stdout.count("\n") == 1
    report = json.loads(result.stdout)
    assert (report["step"], report["dataset"], report["errors"]) == (200, "mnist_5k", [])
    seven, two, *others = report["images"]
    assert (seven["file"], two["file"]) == ("seven.png", "two.png")
    for image in (seven, *others):
        assert (image["label"], image["class"]) == (7, "7")
        assert sum(image["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert np.argmax(image["probabilities"]) == 7
        assert "note" not in image
    assert "several digits" in two["note"]
    # 20 images each, under names that are not taken.
    assert result.stderr == "Drawn in predictions-1.png, predictions-2.png\n"
    assert not (images / "elsewhere.png").exists()
    for page, most in ((1, 11_000), (2, 1000)):
        with Image.open(images / f"predictions-{page}.png") as figure:
            assert figure.height < most


def test_a_model_of_other_images_gets_those_and_its_class_names_are_printed(
    images, monkeypatch, capsys
):
    (images / "seven.png").rename(images / "se\33[2Jven\n.png")  # It clears the screen.

    def classify(inputs):
        assert (inputs.shape, inputs.dtype) == ((1, 8, 12, 3), np.uint8)
        return Classification().describe(np.log([[0.1, 0.9]]), ["cat", "d\rog"])

    model = types.SimpleNamespace(
        input=jax.ShapeDtypeStruct((8, 12, 3), "uint8"),
        manifest=types.SimpleNamespace(class_names=["cat", "dog"], normalization=""),
        config=default.get_config(),
        predict=classify,
    )
    monkeypatch.setattr("mnist_jax.restoring.restore", lambda *args, **_: model)
    flags.FLAGS.mark_as_parsed()
    main(str(images / "se\33[2Jven\n.png"))
    line = "/se\\x1b[2Jven\\n.png: d\\rog (90.0%), or cat (10.0%)\n"
    assert capsys.readouterr().out.endswith(line)


def write_pictures(folder: Path, split: str, pictures: np.ndarray, label: np.ndarray) -> None:
    """Writes `<split>/<class>/<number>.png`."""
    for number, (picture, label_) in enumerate(zip(pictures, label, strict=True)):
        path = folder / split / str(label_) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def make_transparent(images: np.ndarray) -> np.ndarray:
    """Enlarges digits, black on transparent: `uint8[n, 84, 84, 4]`."""
    alpha = 255 - images.repeat(3, axis=1).repeat(3, axis=2)
    return np.stack([np.zeros_like(alpha)] * 3 + [alpha], axis=3)


@pytest.mark.parametrize("form", ["images", "transparent", "npz", "npy", "idx"])
def test_files_of_the_test_split_are_predicted_as_they_are_evaluated(
    form, fake_config, tmp_path, monkeypatch, capsys
):
    mnist = load_mnist_5k().splits
    splits = {  # Dark on white, as most people's own digits.
        "train": (255 - mnist["train"].image[::4], mnist["train"].label[::4]),
        "test": (255 - mnist["test"].image[::5], mnist["test"].label[::5]),
    }
    own = tmp_path / "own"
    fake_config.update(optimizer="adam", learning_rate=0.003, num_train_steps=300)
    fake_config.update(hidden_sizes=(), steps_per_call=100, eval_every_steps=300)
    if form == "transparent":
        splits = {split: (make_transparent(x), y) for split, (x, y) in splits.items()}
        fake_config.update(image_size=(20, 24), image_background=200)
    elif form == "npy":
        splits = {split: (x[..., None].repeat(3, 3), y) for split, (x, y) in splits.items()}
    for split, (image, label) in splits.items():
        write_pictures(own, split, image, label)
        if form == "idx":
            name = {"train": "train", "test": "t10k"}[split]
            write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", image)
            write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", label.astype(np.uint8))
        elif form == "npy":
            np.save(tmp_path / f"x_{split}", image)
            np.save(tmp_path / f"y_{split}", label)
    arrays = {
        f"{field}_{s}": a for s, x in splits.items() for field, a in zip("xy", x, strict=True)
    }
    np.savez(tmp_path / "own.npz", **arrays)
    paths = {"images": own, "transparent": own, "npz": tmp_path / "own.npz"}
    fake_config.dataset = str(paths.get(form, tmp_path))
    train_and_evaluate(fake_config, tmp_path / "run")
    counted = json.loads((tmp_path / "run" / "results.json").read_text())["splits"]["test"]
    assert counted["accuracy"] > 0.5
    flags.FLAGS.mark_as_parsed()
    capsys.readouterr()
    model = restoring.restore(tmp_path / "run")
    monkeypatch.setattr("mnist_jax.commands.flags.restore_checkpoint", lambda: model)
    with flagsaver.flagsaver(json=True, csv=str(tmp_path / "rows.csv")):
        main(str(own / "test"))
    rows = json.loads(capsys.readouterr().out)["images"]
    lines = csv.DictReader((tmp_path / "rows.csv").read_text().splitlines())
    for line, row in zip(lines, rows, strict=True):
        assert (line["file"], line["prediction"]) == (row["file"], row["class"])
        assert float(line["probability"]) == max(row["probabilities"])
    right = sum(row["class"] == Path(row["file"]).parent.name for row in rows)
    assert (right, len(rows)) == (counted["num_correct"], counted["num_examples"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--workdir", "nowhere", "seven.png"], "nowhere contains no checkpoints"),
        (["--workdir", "nowhere"], "image: missing"),
        (["seven.png"], "workdir"),
    ],
)
def test_a_mistake_gets_one_line(images, args, message):
    result = predict(*args, folder=images)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("probabilities", "text"),
    [
        ([0.001, 0.998, 0.001], "1 (99.8%)"),
        ([0.3, 0.65, 0.05], "1 (65.0%), or 0 (30.0%), 2 (5.0%)"),
    ],
)
def test_the_line_names_the_most_probable_classes(probabilities, text):
    (row,) = Classification().describe(np.log([probabilities]), ["0", "1", "2"])
    assert row["text"] == text
