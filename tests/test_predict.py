"""The command `mnist-jax predict`."""

import json
import os
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

from mnist_jax.commands.predict import main
from mnist_jax.tasks import Classification
from tests.conftest import ROOT
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
        manifest=types.SimpleNamespace(class_names=["cat", "dog"]),
        predict=classify,
    )
    monkeypatch.setattr("mnist_jax.restoring.restore", lambda *args, **_: model)
    flags.FLAGS.mark_as_parsed()
    main(str(images / "se\33[2Jven\n.png"))
    line = "/se\\x1b[2Jven\\n.png: d\\rog (90.0%), or cat (10.0%)\n"
    assert capsys.readouterr().out.endswith(line)


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
