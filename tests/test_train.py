"""`python train.py`, as its users run it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.conftest import ROOT

SMALL = [
    "--config.dataset=fake",
    "--config.hidden_sizes=16",
    "--config.num_train_steps=40",
    "--config.log_every_steps=10",
    "--config.steps_per_call=10",
    "--config.eval_every_steps=20",
]


def command(*args: str, config: str = "configs/default.py") -> list[str]:
    return [
        sys.executable,
        str(ROOT / "train.py"),
        "--config",
        str(ROOT / config),
        *SMALL,
        *args,
    ]


def run(*args: str, cwd, **kwargs) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(*args, **kwargs), cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_without_a_workdir_a_new_run_folder_is_made_and_named(tmp_path):
    result = run(cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")  # And no progress bar.
    (workdir,) = (tmp_path / "runs/default").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}", workdir.name)
    assert f"in {workdir}" in result.stdout.splitlines()[0]
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"40"}


def test_with_quiet_nothing_is_printed(tmp_path):
    result = run("--quiet", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list((tmp_path / "runs/default").glob("*/results.json"))


def run_in_a_terminal(cwd, *args: str, ctrl_c_after: str = "") -> tuple[int, str]:
    """Runs the command in a terminal of 90 columns; returns its exit code and its output."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    process = subprocess.Popen(
        ["setsid", "--ctty", *command("--workdir", "run", *args)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    output = ""
    while True:
        try:
            output += os.read(parent, 65536).decode(errors="replace")
        except OSError:  # Linux's way to say that the other side is closed.
            break
        if ctrl_c_after and ctrl_c_after in output:
            os.write(parent, b"\x03")
            ctrl_c_after = ""
    os.close(parent)
    return process.wait(), output


def test_ctrl_c_leaves_no_rest_of_the_progress_bar(tmp_path):
    flags = ("--config.num_train_steps=10000000", "--config.log_every_steps=10000000")
    code, output = run_in_a_terminal(tmp_path, *flags, ctrl_c_after=" steps/s")
    assert code == 130
    assert "^C" in output
    # What the terminal shows: text writes over what is there, and goes on in the next line.
    lines, column = [[" "] * 90], 0
    for char in re.sub(r"\x1b\[\d*m", "", output):
        if char == "\n" or (column == 90 and char != "\r"):
            lines.append([" "] * 90)
        if char in "\r\n" or column == 90:
            column = 0
        if char not in "\r\n":
            lines[-1][column] = char
            column += 1
    shown = ["".join(line).rstrip() for line in lines]
    assert not [line for line in shown if "^" in line or "%|" in line]
    assert any(line.startswith("Stopped by SIGINT after step ") for line in shown)


def test_a_terminal_gets_a_progress_bar_that_breaks_no_line(tmp_path):
    code, text = run_in_a_terminal(tmp_path)
    assert code == 0
    assert re.search(r"\d+%\|.*\| \d+/40 \[\d\d:\d\d<\S+ +\S+ steps/s\]", text)
    # As the terminal shows it: a carriage return writes over the line.
    shown = [line.rstrip("\r").split("\r")[-1] for line in text.split("\n")]
    for step in (10, 20, 30, 40):
        assert any(
            re.fullmatch(rf"Step {step}: loss = \d\.\d\d \([\d,]+ steps/s\)", x) for x in shown
        )
    assert sum(x == "Test Data Eval: [fake]" for x in shown) == 2
