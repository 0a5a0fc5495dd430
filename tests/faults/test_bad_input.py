"""A mistake costs one line of reading: exit code 2, and nothing on disk has changed."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.faults import processes

# What is wrong, and what the line must say of it.
FIELDS = [
    # Types.
    ("learning_rate=fast", "learning_rate"),
    ("learning_rate=", "learning_rate"),
    ("learning_rate=(0.1,)", "learning_rate"),
    ("learning_rate=True", "learning_rate"),
    ("batch_size=64.0", "batch_size"),
    ("batch_size=64.5", "batch_size"),
    ("batch_size=True", "batch_size"),
    ("batch_size=many", "batch_size"),
    ("num_train_steps=1e3", "num_train_steps"),
    ("seed=None", "seed"),
    ("hidden_sizes=wide", "hidden_sizes"),
    ("hidden_sizes=(128, 32.5)", "hidden_sizes"),
    ("hidden_sizes=(128, True)", "hidden_sizes"),
    # Ranges.
    ("learning_rate=0", "config.learning_rate: 0.0 is not a finite number above 0"),
    ("learning_rate=-0.1", "config.learning_rate: -0.1 is not"),
    ("learning_rate=nan", "config.learning_rate: nan is not"),
    ("learning_rate=inf", "config.learning_rate: inf is not"),
    ("learning_rate=1e39", "config.learning_rate: 1e+39 is not"),
    ("momentum=1", "config.momentum: 1.0 is not"),
    ("momentum=-0.1", "config.momentum: -0.1 is not"),
    ("momentum=nan", "config.momentum: nan is not"),
    ("weight_decay=-1", "config.weight_decay: -1.0 is not"),
    ("weight_decay=inf", "config.weight_decay: inf is not"),
    ("grad_clip_norm=-1", "config.grad_clip_norm: -1.0 is not"),
    ("grad_clip_norm=nan", "config.grad_clip_norm: nan is not"),
    ("seed=-1", "config.seed: -1 is not an integer from 0 to 4294967295"),
    ("seed=4294967296", "config.seed: 4294967296 is not"),
    ("batch_size=0", "config.batch_size: 0 is not an integer from 1"),
    ("batch_size=-100", "config.batch_size: -100 is not"),
    ("num_train_steps=0", "config.num_train_steps: 0 is not"),
    ("num_train_steps=2147483648", "config.num_train_steps: 2147483648 is not"),
    ("steps_per_call=0", "config.steps_per_call: 0 is not"),
    ("log_every_steps=0", "config.log_every_steps: 0 is not"),
    ("eval_every_steps=-1", "config.eval_every_steps: -1 is not"),
    ("eval_batch_size=0", "config.eval_batch_size: 0 is not"),
    ("eval_batch_size=100000", "config.eval_batch_size: 100000 is not"),
    ("checkpoint_every_steps=0", "config.checkpoint_every_steps: 0 is not"),
    ("keep_checkpoints=0", "config.keep_checkpoints: 0 is not"),
    ("warmup_steps=-1", "config.warmup_steps: -1 is not"),
    ("hidden_sizes=(0,)", "config.hidden_sizes: (0,) is not"),
    ("hidden_sizes=(128, -1)", "config.hidden_sizes: (128, -1) is not"),
    ("hidden_sizes=(70000,)", "config.hidden_sizes: (70000,) is not"),
    # Names.
    ("optimizer=sdg", "config.optimizer: 'sdg' is not one of 'sgd', 'adam', 'adamw'"),
    ("schedule=linear", "config.schedule: 'linear' is not one of"),
    ("fallback_dataset=mnist", "config.fallback_dataset: 'mnist' is not one of"),
    ("dataset=", "config.dataset: '' is not a dataset's name"),
    ("dataset=../mnist", "config.dataset: '../mnist' is not"),
    ("dataset=mnist/../..", "config.dataset: 'mnist/../..' is not"),
    ("dataset=/etc/passwd", "config.dataset: '/etc/passwd' is not"),
    ("data_dir=~nobody_of_this_name/data", "config.data_dir"),
    ("manual_dir=~nobody_of_this_name/data", "config.manual_dir"),
    # Combinations.
    ("momentum=0.9 optimizer=adam", "config.momentum: 0.9 is SGD's"),
    ("weight_decay=0.1 optimizer=adam", "--config.optimizer=adamw"),
    ("schedule=cosine warmup_steps=2000", "config.warmup_steps: 2000 leaves nothing"),
    ("steps_per_call=1000000 batch_size=1000", "config.steps_per_call: 1000000 steps of 1000"),
    # No such field: the nearest.
    ("learning_rat=0.1", "did you mean config.learning_rate?"),
    ("batchsize=10", "did you mean config.batch_size?"),
    ("num_steps=10", "config.num_steps: there is no such field"),
    ("frobnicate=1", "config.frobnicate: there is no such field; see configs/default.py"),
]

ARGUMENTS = [
    ("config.learning_rate=1", "did you mean --config.learning_rate=1?"),
    ("learning_rate=1", "learning_rate=1: not a flag"),
    ("train", "train: not a flag"),
    ("--learning_rate=1", "learning_rate"),
    ("--workdri=x", "workdir"),
    ("--workdir=", "workdir: empty"),
    ("--workdir=~nobody_of_this_name/run", "workdir: ~nobody_of_this_name/run"),
    ("--workdir=" + "x" * 300, "File name too long"),
    ("--workdir=a_file", "Not a directory"),
    ("--workdir=a_file/run", "Not a directory"),
    ("--workdir=/proc/run", "workdir: /proc/run"),
    ("--workdir=a_link", "symbolic link"),
]

_HEAD = "from configs import default\ndef get_config():\n  config = default.get_config()\n"
CONFIG_FILES = [
    (None, "no such file"),
    ("def get_config(:\n", "SyntaxError"),
    ("import nothing_of_this_name\n", "nothing_of_this_name"),
    ("", "get_config"),
    ("def get_config():\n  return {'seed': 0}\n", "does not return a ConfigDict"),
    ("def get_config():\n  return None\n", "does not return a ConfigDict"),
    ("def get_config():\n  raise ValueError('first\\nsecond')\n", "ValueError: first second"),
    (f"{_HEAD}  del config.seed\n  return config\n", "config.seed: missing"),
    (f"{_HEAD}  config.seeds = 1\n  return config\n", "did you mean config.seed?"),
    (f"{_HEAD}  config.learning_rat = 1\n  return config\n", "config.learning_rate?"),
    (f"{_HEAD}  with config.ignore_type():\n    config.seed = 'x'\n  return config\n", "'x'"),
    (f"{_HEAD}  with config.ignore_type():\n    config.seed = True\n  return config\n", "True"),
    (f"{_HEAD}  config.learning_rate = float('nan')\n  return config\n", "nan is not"),
    (f"{_HEAD}  config.learning_rate = 10**400\n  return config\n", "too large"),
]  # fmt: skip


def _snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def check_refused(folder: Path, command: list[str], says: str) -> None:
    before = _snapshot(folder)
    ended = processes.run(command, cwd=folder)
    assert ended.returncode == 2, ended
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert says in ended.stderr
    assert ended.stdout == ""
    assert _snapshot(folder) == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a_file").write_text("something")
    (tmp_path / "a_link").mkdir()
    (tmp_path / "a_link" / "metrics.jsonl").symlink_to(tmp_path / "a_file")
    return tmp_path


@pytest.mark.parametrize(("overrides", "says"), FIELDS, ids=[x for x, _ in FIELDS])
def test_a_bad_field_is_refused(overrides: str, says: str, folder: Path):
    fields = dict(x.split("=", 1) for x in re.split(r" (?=[a-z])", overrides))
    check_refused(folder, processes.train_command(folder / "run", fields), says)


@pytest.mark.parametrize(("argument", "says"), ARGUMENTS, ids=[x[:40] for x, _ in ARGUMENTS])
def test_a_bad_argument_is_refused(argument: str, says: str, folder: Path):
    command = processes.train_command(folder / "run", {"dataset": "fake"})
    check_refused(folder, [*command, argument], says)


@pytest.mark.parametrize(("text", "says"), CONFIG_FILES)
def test_a_bad_config_file_is_refused(text: str | None, says: str, folder: Path):
    if text is not None:
        (folder / "bad.py").write_text(text)
    command = processes.train_command(folder / "run", {})
    command[2] = "--config=bad.py"
    check_refused(folder, command, says)


def test_no_config_is_refused(folder: Path):
    command = processes.train_command(folder / "run", {})
    check_refused(folder, [*command[:2], *command[3:]], "which one? give --config")
