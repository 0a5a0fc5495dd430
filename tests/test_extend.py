"""What docs/extend.md shows works, is resumed to the bit, and touches what the page says.

    python -m tests.test_extend

writes the numbers of lines into its table.
"""

import csv
import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mnist_jax import restoring
from mnist_jax.checkpointing import Checkpoints
from mnist_jax.models import MLP
from mnist_jax.runtime import saved_arrays
from tests.conftest import ROOT
from tests.faults import forked
from tests.test_resume import without_speed
from tests.workdirs import journal

PATH = ROOT / "docs" / "extend.md"
TEXT = PATH.read_text()
TITLES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
ROW = re.compile(r"^\| \[(.+?)\]\(#.+?\) \| (.+?) \| (\d+) \|$", re.MULTILINE)

# For data and steps that cost little. When the device call that reaches step 25 is dispatched,
# the checkpoint of step 10 is there.
DIGITS = """
import numpy as np
images = np.random.default_rng(0).integers(0, 256, (400, 28, 28), np.uint8)
np.savez("digits.npz", x_train=images, y_train=np.arange(400) % 10)
"""
SMALL = {
    "dataset": "./digits.npz",
    "figures": False,
    "batch_size": 30,
    "num_train_steps": 30,
    "steps_per_call": 5,
    "log_every_steps": 5,
    "eval_every_steps": 10,
    "checkpoint_every_steps": 10,
}
KILL_AT = 25
# What chooses a change of the package.
FLAGS = {
    "Another network": ["--config.model=residual"],
    "Augmentation": ["--config.augmentation=random_invert"],
    "Another optimizer": ["--config.optimizer=rmsprop", "--config.momentum=0.5"],
}
# The clients that the page's trackers use.
CLIENTS = {
    "wandb.py": "def init(**_): pass\ndef log(scalars, step): print('wandb', step, *scalars)",
    "mlflow.py": "def start_run(): pass\n"
    "def log_metrics(scalars, step): print('mlflow', step, *scalars)",
}


class Section:
    """What a section shows.

    Attributes:
      diff: Of the package, or "".
      data: The Python that makes an example's data, or "".
      files: The user's own files by name.
      commands: What is run, in order: those of the shell, a script, or `train` with the diff.
    """

    def __init__(self, title: str, text: str):
        def blocks(kind: str) -> list[str]:
            return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)

        self.diff = "".join(blocks("diff"))
        self.data = "".join(code for code in blocks("python") if not code.startswith("# "))
        named = [code for code in blocks("python") if code.startswith("# ")]
        self.files = {code.split()[1]: code for code in named}
        lines = "".join(blocks("sh")).replace("\\\n", "").splitlines()
        self.commands = [shlex.split(line)[1:] for line in lines]
        if self.diff:
            self.commands = [["train", "--workdir=runs/mine", *FLAGS.get(title, [])]]
        elif not self.commands:
            self.commands = [[name] for name in self.files]

    def touches(self) -> tuple[str, int]:
        """What it touches, and how many lines it adds there."""
        if self.diff:
            files = re.findall(r"^\+\+\+ b/mnist_jax/(.+)$", self.diff, re.MULTILINE)
            signs = re.findall(r"^[+-](?!\+\+|--)", self.diff, re.MULTILINE)
            return ", ".join(f"`{f}`" for f in files), signs.count("+") - signs.count("-")
        lines = [line for code in self.files.values() for line in code.splitlines() if line]
        kind = "a file of yours" if self.commands[0][0] == "train" else "a script"
        return (kind, len(lines)) if lines else ("nothing", 0)


SECTIONS = {title: Section(title, text) for title, text in TITLES.items() if "```" in text}


def run(section: Section, folder: Path, cache: dict[str, str], *, kill: bool) -> str:
    """Trains what a section shows; returns what is printed.

    With `kill`, each training is killed, and the same command given again; and the commands
    that use the runs are run, too.
    """
    options = {"fields": SMALL}
    if section.diff:
        options["code"] = folder / "code"
        shutil.copytree(ROOT / "mnist_jax", folder / "code" / "mnist_jax")
        apply = ["git", "apply", "-"]
        subprocess.run(apply, input=section.diff, cwd=folder / "code", text=True, check=True)
    for name, content in (section.files | CLIENTS).items():
        (folder / name).write_text(content)
    subprocess.run([sys.executable, "-c", DIGITS + section.data], cwd=folder, check=True)
    small = [f"--config.{name}={value}" for name, value in SMALL.items()]
    printed = ""
    for name, *arguments in section.commands:
        added = {"train": small, "evaluate": ["--json"]}.get(name, [])
        command = [name, *added, *arguments]
        run_command = functools.partial(forked.run, command, folder, cache, **options)
        trains = name == "train" or name.endswith(".py")
        if trains and kill:
            killed = run_command(kill_at=KILL_AT)
            assert killed.returncode == -9, killed
            printed += killed.stdout + killed.stderr
        if trains or kill:
            ended = run_command()
            assert ended.returncode == 0, ended
            printed += ended.stdout + ended.stderr
    return printed


def saved(workdir: Path, step: int = 30) -> dict[str, np.ndarray]:
    """All leaves of a checkpoint's state, by name."""
    folder = workdir.absolute() / f"checkpoints/{step}/default"
    tree = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    return saved_arrays.leaves_by_name(saved_arrays.read(folder, target))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}


@pytest.mark.parametrize("title", SECTIONS)
def test_what_is_shown_trains_and_is_resumed_to_the_bit(title, cache, tmp_path, monkeypatch):
    section, folder = SECTIONS[title], tmp_path / "folder"
    folder.mkdir()
    run(section, folder, cache, kill=False)
    whole = folder.rename(tmp_path / "whole")
    folder.mkdir()
    printed = run(section, folder, cache, kill=True)
    for workdir in (folder / "runs").iterdir():
        expected = whole / "runs" / workdir.name
        assert without_speed(journal(workdir)) == without_speed(journal(expected))
        jax.tree.map(np.testing.assert_array_equal, saved(workdir), saved(expected))
    monkeypatch.chdir(folder)
    for command in section.commands:
        flags = dict(zip(command[1::2], command[2::2], strict=False))
        if command[0] == "evaluate":
            results = json.loads(Path(flags["--workdir"], "results.json").read_text())
            assert f'"splits": {json.dumps(results["splits"])}' in printed
        if command[0] == "export":
            check_export(flags)
    CHECKS.get(title, lambda printed: None)(printed)


def check_export(flags: dict[str, str]) -> None:
    own = {kind: flags.get(f"--{kind}") for kind in ("model", "task")}
    model = restoring.restore(flags["--workdir"], **own)
    images = restoring.load_run_dataset(model).splits["train"].image[:3]
    exported = jax.export.deserialize(bytearray(Path(flags["--output"]).read_bytes()))
    for inputs in (images, images[:1]):  # A batch of any size.
        np.testing.assert_allclose(exported.call(inputs), model.outputs(inputs), rtol=1e-4)
    assert [row["text"] for row in model.predict(images)]


def check_batch_norm(printed: str) -> None:
    assert "collections/batch_stats/BatchNorm_0/mean" in saved(Path("runs/mine"))


def check_metric(printed: str) -> None:
    assert "test/top_3" in journal(Path("runs/mine"))[-1]
    assert "  top_3: " in printed


def check_average(printed: str) -> None:
    """The evaluation uses the average."""
    model = restoring.restore("runs/average", model="average.py:mlp")
    images = restoring.load_run_dataset(model).splits["test"].image
    outputs = {
        kind: MLP((128, 32), 10).apply({"params": params}, images)
        for kind, params in (
            ("average", model.variables["average"]["params"]),
            ("newest", model.variables["params"]["network"]),
        )
    }
    np.testing.assert_allclose(model.outputs(images), outputs["average"], atol=1e-5)
    assert abs(outputs["average"] - outputs["newest"]).max() > 1e-3


def check_trackers(printed: str) -> None:
    lines = journal(Path("runs/tracked"))
    for client in ("wandb", "mlflow"):
        steps = [int(step) for step in re.findall(rf"^{client} (\d+)", printed, re.MULTILINE)]
        # The steps from the checkpoint on are repeated.
        assert steps == [0, *np.repeat([5, 10, 15, 20, 15, 20, 25, 30], 2)]
    rows = csv.reader(Path("curves.csv").read_text().splitlines())
    points = {(int(step), name): float(value) for step, name, value in rows}
    assert points == {
        (line["step"], name): value
        for line in lines
        for name, value in line.items()
        if "/" in name
    }


def check_folds(printed: str) -> None:
    results = [
        json.loads(Path(f"runs/fold_{k}/results.json").read_text())["splits"]["test"]
        for k in range(3)
    ]
    assert [result["num_examples"] for result in results] == [113, 112, 112]
    mean = np.mean([result["accuracy"] for result in results])
    assert printed.splitlines()[-1] == f"{mean}"


def check_fine_tuning(printed: str) -> None:
    start = Checkpoints(Path("runs/letters")).manifest(30).init_from
    source, tuned = saved(Path("runs/digits"), start["step"]), saved(Path("runs/letters"))
    for layer in ("hidden1", "hidden2"):
        name = f"params/{layer}/kernel"
        np.testing.assert_array_equal(source[name], tuned[name])
    assert "skipped params/softmax_linear/bias (10,) there, (3,) here" in printed


CHECKS = {
    "Batch norm": check_batch_norm,
    "Another metric": check_metric,
    "The average of the parameters": check_average,
    "Trackers": check_trackers,
    "Cross-validation": check_folds,
    "Fine-tuning": check_fine_tuning,
}


def test_the_table_counts_what_is_touched_at_most_one_file():
    rows = {title.lower(): (touches, int(lines)) for title, touches, lines in ROW.findall(TEXT)}
    shown = {title.lower(): section.touches() for title, section in SECTIONS.items()}
    assert rows == {"images of another size, colour": ("nothing", 0)} | shown
    for section in SECTIONS.values():
        python = section.data.splitlines() + "".join(section.files.values()).splitlines()
        assert len([line for line in python if line]) <= 40
        assert len(section.files) + section.diff.count("+++ ") <= 1


def write_table() -> None:
    def count(match: re.Match[str]) -> str:
        titles = [title for title in SECTIONS if title.lower() == match[1].lower()]
        touches, lines = SECTIONS[titles[0]].touches() if titles else ("nothing", 0)
        return f"{match[0].split(' | ')[0]} | {touches} | {lines} |"

    PATH.write_text(ROW.sub(count, TEXT))


if __name__ == "__main__":
    write_table()
