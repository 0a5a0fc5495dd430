"""The command `python -m mnist_jax.predict`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mnist_jax.predict import format_prediction
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
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return subprocess.run(
        [sys.executable, "-m", "mnist_jax.predict", *map(str, args)],
        cwd=folder,
        env=env | {"PYTHONPATH": str(ROOT)},
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
    result = predict(
        "--workdir",
        trained_workdir,
        "--json",
        "--show",
        "seven.png",
        "chalk.jpg",
        folder=images,
    )
    assert result.returncode == 0
    assert result.stdout.count("\n") == 1
    report = json.loads(result.stdout)
    assert (report["step"], report["dataset"], report["errors"]) == (200, "mnist_5k", [])
    assert [(i["file"], i["digit"]) for i in report["images"]] == [
        ("seven.png", 7),
        ("chalk.jpg", 7),
    ]
    for image in report["images"]:
        assert sum(image["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert np.argmax(image["probabilities"]) == 7
    assert result.stderr == "Drawn in predictions.png\n"
    with Image.open(images / "predictions.png") as figure:
        figure.verify()


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
        ([0.001, 0.999, 0.0], "1 (99.9%)"),
        ([0.3, 0.65, 0.05], "1 (65.0%), or 0 (30.0%), 2 (5.0%)"),
    ],
)
def test_the_line_names_the_most_probable_classes(probabilities, text):
    assert format_prediction(np.array(probabilities), ["0", "1", "2"]) == text
