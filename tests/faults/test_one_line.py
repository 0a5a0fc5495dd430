"""What the user, the files or the machine do wrong is one line on stderr, never a traceback."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from tests.faults import forked, processes
from tests.workdirs import contents

LONG = "x" * 256
TRAIN = [
    "train",
    f"--config={processes.ROOT / 'configs' / 'default.py'}",
    "--config.dataset=fake",
    "--config.fallback_dataset=",
]
MNIST = [*TRAIN, "--config.dataset=mnist", "--config.data_dir=data"]


def config():
    """Of the run that is damaged."""
    config = processes.short_config()
    config.update(num_train_steps=20)
    return config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder with what the commands below find, and nothing else around them."""
    monkeypatch.delenv("MNIST_JAX_MANUAL_DIR", raising=False)
    (tmp_path / "data" / "downloads").mkdir(parents=True)
    (tmp_path / "data" / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "data" / "mnist" / "3.0.1" / "dataset_info.json").write_text("{")
    for name in ("runs/default/1", "runs/mine"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "exits.py").write_text("import sys\ndef get_config():\n  sys.exit(0)\n")
    (tmp_path / "interrupts.py").write_text("raise KeyboardInterrupt\n")
    return tmp_path


def check_refused(
    folder: Path, command: list[str], message: str, environment: dict[str, str] | None = None
) -> None:
    before = contents(folder)
    cache = {"XDG_CACHE_HOME": str(folder.with_name("cache"))}
    ended = forked.run(command, folder, cache | (environment or {}))
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([*MNIST, "--config.dataset=mnist/3.0.1"], "did you mean mnist?"),
        ([*MNIST, "--config.dataset=downloads"], "dataset: there is no 'downloads'"),
        ([*MNIST, f"--config.dataset={'x' * 5000}"], "File name too long"),
        (MNIST, "data/mnist: "),
        ([*TRAIN, f"--config.data_dir={LONG}"], "config.data_dir: x"),
        ([*TRAIN, f"--config.manual_dir={LONG}"], "config.manual_dir: x"),
        ([*TRAIN, "--config.data_dir=~nobody_here/a"], "config.data_dir: ~nobody_here/a: "),
        ([*TRAIN, "--config.manual_dir=a\0b"], "config.manual_dir: a\\x00b: "),
        (
            [*TRAIN, "--config.data_dir=/dev/null"],
            "config.data_dir: /dev/null: Not a directory",
        ),
        ([*TRAIN, "--config.data_dir=gs://a"], "config.data_dir: gs://a: is a URL; mount"),
        ([*TRAIN, "--config.manual_dir=gs://a"], "config.manual_dir: gs://a: is a URL"),
        ([*TRAIN, "--workdir=gs://bucket/run"], "workdir: gs://bucket/run: is a URL; mount"),
        ([*TRAIN, f"--workdir=missing/{LONG}"], "File name too long"),
        ([*TRAIN, "--workdir=a\udc80b"], "workdir: a\\udc80b: "),
        ([*TRAIN, "--workdir=a\nb*"], "workdir: a\\nb*: "),
        ([*TRAIN, "--workdir=\x1b[2J"], "workdir: \\x1b[2J: "),
        ([*TRAIN, "--flagfile=nope"], "Unable to open flagfile"),
        ([*TRAIN, "--json"], "--json: not a flag of this command"),
        (["train", f"--config={'x' * 300}.py"], "x.py: no such file"),
        (["train", "--config=exits.py"], "config: SystemExit: 0"),
        (["train", "--config=interrupts.py"], "config: KeyboardInterrupt: "),
        (["train", "--config=none.py", "--config.seed=1"], "none.py: no such file; give its"),
        (["train", "--config", "adam", "--config.seed=1"], "or one of adamw, cnn, default"),
        ([*TRAIN, "--learning_rate=0.1"], "did you mean --config.learning_rate?"),
        (["evaluate"], "workdir: missing; give --workdir"),
        (["predict", "x.png"], "workdir: missing; give --workdir"),
        (["demo"], "workdir: missing; give --workdir"),
        (["evaluate", "--workdir=runs"], "runs/default/1, "),
        (["evaluate", "--workdir=runs"], "runs/mine\n"),
        (["evaluate", "--workdir=runs", "--figures=~nobody_here"], "figures: ~nob"),
    ],
    ids=lambda part: " ".join(part[1:])[-60:] if isinstance(part, list) else "",
)
def test_a_wrong_value(command: list[str], message: str, folder: Path):
    check_refused(folder, command, message)


@pytest.mark.parametrize("name", ["TFDS_DATA_DIR", "MNIST_JAX_MANUAL_DIR"])
@pytest.mark.parametrize("value", [LONG, "~nobody_of_this_name/x", "gs://a", "/dev/null"])
def test_a_wrong_variable(name: str, value: str, folder: Path):
    check_refused(folder, TRAIN, f"{name}: {value}: ", {name: value})


@pytest.mark.parametrize("platforms", ["cuda", "nothing"])
def test_a_platform_that_is_not_there(platforms: str, folder: Path):
    command = [sys.executable, "-m", "mnist_jax", *TRAIN]
    ended = processes.run(command, cwd=folder, env={"JAX_PLATFORMS": platforms})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"JAX_PLATFORMS: {platforms}: ")
    assert ended.stderr.count("\n") == 1


def test_a_cache_folder_is_not_created_in_the_current_one(folder: Path):
    """A relative `XDG_CACHE_HOME` is to be ignored."""
    command = [*TRAIN, "--config.batch_size=2001"]
    check_refused(folder, command, "batch_size", {"XDG_CACHE_HOME": "gs://a"})


def test_a_step_of_many_digits(run: Path):
    command = ["evaluate", f"--workdir={run}", f"--step={'9' * 5000}"]
    check_refused(run, command, "choose latest, best or one of 20\n")


def resume(run: Path) -> list[str]:
    fields = processes.SHORT_RUN | {"num_train_steps": 20}
    return ["train", *processes.train_command(run, fields)[2:]]


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.out.tfevents.1", "run_id"])
def test_a_folder_in_the_place_of_a_file(name: str, run: Path):
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    check_refused(run.parent, resume(run), f"{name} is a link or of the wrong kind")


def test_a_deeply_nested_journal(run: Path):
    (run / "metrics.jsonl").write_text("[" * 200_000 + "\n")
    ended = forked.run(resume(run), run.parent)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "metrics.jsonl: line 1 is damaged" in ended.stderr


def shell(command: list[str], rest: str, cwd: Path, **environment: str) -> processes.Ended:
    """Runs the command by a shell; `rest` follows it."""
    line = f"{shlex.join(command)} {rest}"
    return processes.run(["/bin/sh", "-c", line], cwd=cwd, env=environment)


def test_a_terminal_of_ascii(tmp_path: Path):
    fields = processes.SHORT_RUN | {"num_train_steps": 10, "hidden_sizes": "()"}
    command = processes.train_command("é", fields)
    ended = processes.run(command, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "/\\xe9\n" in ended.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110
def test_a_full_stderr_leaves_the_exit_code(tmp_path: Path):
    command = [sys.executable, str(processes.ROOT / "train.py"), "--no_flag"]
    assert shell(command, "2>/dev/full", tmp_path).returncode == 2
