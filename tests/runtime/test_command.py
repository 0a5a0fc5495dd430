"""Commands: a mistake is one line and exit code 2, and nothing on disk has changed."""

import os
import pstats
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags

from mnist_jax.runtime import command
from mnist_jax.runtime.errors import UserError
from tests.conftest import ROOT
from tests.faults import processes

DEFAULT = str(ROOT / "configs" / "default.py")
_HEAD = """from mnist_jax.configs import default
def get_config():
  config = default.get_config()
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config.learning_rate=1"], "did you mean --config.learning_rate=1?"),
        (["learning_rate=1"], "learning_rate=1: not a flag"),
        (["train"], "train: not a flag"),
        (["--learning_rate=1"], "'learning_rate'; did you mean --config.learning_rate?"),
        (["--workdri=x"], "workdir"),
        (["--workdir"], "workdir"),
        (["--config.seed.x=1"], "seed"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str, parse):
    with pytest.raises(UserError) as error:
        parse(f"--config={DEFAULT}", *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("overrides", [[], ["--config.batch_size=7"]])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "o such file"),
        ("def get_config(:\n", "config: SyntaxError: "),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
        ("", "get_config"),
        ("def get_config():\n  return None\n", "config: "),
        ("def get_config():\n  open('missing')\n", "config: "),
        ("def get_config():\n  raise ValueError('a\\nb')\n", "config: ValueError: a b"),
        ("def get_config():\n  raise TypeError('a')\n", "config: TypeError: a"),
        (f"{_HEAD}  del config.seed\n  return config\n", "seed"),
        (f"{_HEAD}  config.seeds = 1\n  return config\n", "did you mean config.seed?"),
        (f"{_HEAD}  config.learning_rate = float('nan')\n  return config\n", "nan is not"),
        (f"{_HEAD}  config.learning_rate = 10**400\n  return config\n", "too large"),
    ],
)
def test_a_wrong_config_file_is_one_line(
    source: str | None, message: str, overrides: list[str], parse, tmp_path: Path
):
    file = tmp_path / "config.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(UserError) as error:
        parse(f"--config={file}", *overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_config_is_locked_and_has_the_overrides(parse):
    config = parse("--config", DEFAULT, "--config.seed", "7", "--noconfig.figures")
    assert (config.seed, config.figures, config.is_locked) == (7, False, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=bad.py"],
            "config: bad.py: its get_config() fails or returns no ConfigDict\n",
        ),
        (["--config=raising.py"], "config: ValueError: first second\n"),
        ([f"--config={DEFAULT}", "--config.seed=x"], "flag --config.seed=x: invalid literal"),
        (
            [f"--config={DEFAULT}", "--config.seeds=1"],
            "config.seeds: there is no such field; did you mean config.seed?\n",
        ),
        ([f"--config={DEFAULT}", "seed=1"], "seed=1: not a flag; did you mean --seed=1?\n"),
        (
            [f"--config={DEFAULT}", "--process_id=1"],
            "distributed: missing, but flags of a job are set; add --distributed\n",
        ),
        (
            [f"--config={DEFAULT}", "--config.dataset=fake", "--workdir=bad.py"],
            "workdir: bad.py: Not a directory; choose another\n",
        ),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    arguments: list[str], message: str, tmp_path: Path
):
    (tmp_path / "bad.py").write_text("def get_config():\n  return {'seed': 0}\n")
    (tmp_path / "raising.py").write_text(
        "def get_config():\n  raise ValueError('first\\nsecond')\n"
    )
    command = [sys.executable, "-B", str(ROOT / "train.py"), *arguments]
    processes.check_refused(tmp_path, command, message)


def test_a_profiler_writes_its_file(tmp_path: Path):
    """So do coverage and the like: the interpreter ends as it does without a command."""
    fields = processes.SHORT_RUN | {"num_train_steps": 10}
    python, *arguments = processes.train_command(tmp_path / "run", fields)
    ended = processes.run(
        [python, "-m", "cProfile", "-o", str(tmp_path / "profile"), *arguments]
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    functions = {name for _, _, name in pstats.Stats(str(tmp_path / "profile")).stats}
    # From Python 3.12 on, cProfile loses functions where several threads run.
    assert "read_config" in functions


def test_help_may_be_cut_by_head():
    command = f"'{sys.executable}' train.py --help | head -1"
    ended = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.startswith("Trains a network")
    assert ended.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110
def test_a_full_stdout_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ended = subprocess.run(
            [sys.executable, "train.py", "--help"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("stdout: can't be written to (No space left on device)")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("workdir: a\nb"), "workdir: a\\nb"),
        (flags.Error("no such flag"), "no such flag"),
        (FileNotFoundError(2, "No such file", "/a/b"), "/a/b: No such file; what is saved"),
        (BrokenPipeError(32, "Broken pipe"), "BrokenPipeError: Broken pipe; what is saved"),
        (MemoryError(), "MemoryError: "),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (
            UnicodeEncodeError("utf-8", "\udc80", 0, 1, "odd"),
            "UnicodeEncodeError: 'utf-8' codec",
        ),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes"), "RESOURCE_EXHAUSTED: 9"),
    ],
)
def test_an_error_that_is_no_bug_is_one_line(error: Exception, line: str, capsys):
    with pytest.raises(SystemExit) as end, command.errors_in_one_line():
        raise error
    assert end.value.code == (2 if isinstance(error, UserError | flags.Error) else 1)
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("a"), RuntimeError("a")])
def test_a_bug_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error)), command.errors_in_one_line():
        raise error
