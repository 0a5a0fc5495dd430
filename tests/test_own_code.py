"""A user's own model and task, named on the command line."""

import json
from pathlib import Path

import pytest

from tests.faults import processes
from tests.workdirs import contents

CODE = """
import dataclasses
import flax.linen as nn
import jax.numpy as jnp
from mnist_jax.tasks import Task

class Net(nn.Module):
    num_outputs: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Dense(16)(images.reshape(images.shape[0], -1) / 255))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_outputs)(x)

@dataclasses.dataclass(frozen=True)
class Regression(Task):
    power: int = 2
    best = "mae", "min"

    def loss(self, outputs, batch):
        return abs(outputs[:, 0] - batch["label"]) ** self.power

    def metrics(self, outputs, batch):
        return {"mae": abs(outputs[:, 0] - batch["label"])}

cubic = Regression(3)
Broken = 1 / jnp.zeros(()) if False else 7

def fails():
    raise RuntimeError("by intention")
"""
FIELDS = processes.SHORT_RUN | {"hidden_sizes": "(128, 32)", "num_train_steps": 40}


def mnist_jax(folder: Path, *arguments: str) -> processes.Ended:
    command = [processes.sys.executable, "-m", "mnist_jax", *arguments]
    return processes.run(command, cwd=folder)


def train(folder: Path, *overrides: str) -> processes.Ended:
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    return mnist_jax(folder, "train", "--workdir=run", *fields, *overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of own.py and of a run with its network and task; and what it printed."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(CODE)
    ended = train(folder, "--config.model=own.py:Net", "--config.task=own.py:Regression")
    assert (ended.returncode, ended.stderr) == (0, "")
    return folder, ended.stdout


def test_the_printed_commands_work_for_the_run_and_only_those_that_suit_are_printed(run):
    folder, printed = run
    commands = printed.split("Next:\n")[1].splitlines()
    assert [command.split()[:2] for command in commands] == [
        ["tensorboard", "--logdir"],
        ["mnist-jax", "evaluate"],
        ["mnist-jax", "demo"],
    ]
    ended = mnist_jax(folder, *commands[1].split()[1:], "--split=test", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)["splits"]["test"]
    assert result == json.loads((folder / "run/results.json").read_text())["splits"]["test"]


def test_the_file_may_move_and_a_changed_one_is_a_warning(run, tmp_path):
    folder, _ = run
    (tmp_path / "moved.py").write_text(CODE + "\n# A comment.\n")
    own = ["--model=moved.py:Net", "--task=moved.py:Regression"]
    ended = mnist_jax(tmp_path, "evaluate", f"--workdir={folder / 'run'}", *own)
    assert ended.returncode == 0
    lines = ended.stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == [" model", " task"]
    assert all("its sha256 differs" in line for line in lines)


def test_code_is_never_loaded_because_a_workdir_says_so(run):
    folder, _ = run
    before = contents(folder)
    for command in (["evaluate"], ["export", "--output=x"], ["predict", "x.png"], ["demo"]):
        ended = mnist_jax(folder, command[0], "--workdir=run", *command[1:])
        advice = f"add --model {folder / 'own.py'}:Net, or in Python"
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("model: the run has its own, ")
        assert advice in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert contents(folder) == before


def test_what_own_code_prints_is_no_result(run, tmp_path):
    folder, _ = run
    (tmp_path / "loud.py").write_text(f"print('hello')\n{CODE}")
    own = ["--model=loud.py:Net", "--task=loud.py:Regression", "--json"]
    ended = mnist_jax(tmp_path, "evaluate", f"--workdir={folder / 'run'}", *own)
    assert json.loads(ended.stdout)["step"] == 40
    assert ended.stderr.startswith("hello\n")


def test_an_object_with_another_repr_does_not_resume(run):
    folder, _ = run
    before = contents(folder / "run")
    ended = train(folder, "--config.model=own.py:Net", "--config.task=own.py:cubic")
    assert ended.returncode == 2
    assert "task is Regression(power=2) there, Regression(power=3) here" in ended.stderr
    assert contents(folder / "run") == before


def test_a_run_is_exported_and_a_module_on_the_path_is_found(run):
    folder, _ = run
    own = ["--model=own:Net", "--task=own:Regression"]
    ended = mnist_jax(folder, "export", "--workdir=run", "--output=net.stablehlo", *own)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "net.stablehlo").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=missing.py:Net", "missing.py:Net: FileNotFoundError: No such file"),
        ("model=own.py:Missing", "own.py:Missing: AttributeError: module"),
        ("model=own.py:Broken", "own.py:Broken: "),
        ("model=own.py:fails", "own.py:fails: by intention"),
        ("model=own.py:Regression", "is a Regression, expected a Module"),
        ("model=nowhere.at_all:Net", "ModuleNotFoundError: No module named 'nowhere'"),
        ("task=own.py:Net", "own.py:Net: "),
        ("task=syntax.py:Net", "syntax.py:Net: SyntaxError"),
        ("task=exits.py:Net", "exits.py:Net: SystemExit"),
    ],
)
def test_a_mistake_gets_one_line(run, override, message):
    folder, _ = run
    (folder / "syntax.py").write_text("class Net(:\n")
    (folder / "exits.py").write_text("raise SystemExit(0)\n")
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    ended = mnist_jax(folder, "train", "--workdir=new", *fields, f"--config.{override}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert ended.stderr.startswith(f"config.{override.split('=')[0]}: ")
    assert ended.stderr.count("\n") == 1
    assert not (folder / "new").exists()
