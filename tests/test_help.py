"""`--help` fits a screen, and says what the code says; errors are red on terminals."""

import os
import pty
import subprocess
import sys

import pytest

from configs import default
from mnist_jax.runtime import help_page
from tests.conftest import ROOT

COMMANDS = {
    "train": ["train.py"],
    "evaluate": ["-m", "mnist_jax.evaluate"],
    "predict": ["-m", "mnist_jax.predict"],
    "demo": ["-m", "mnist_jax.demo"],
}


def ask(command: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMANDS[command], *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mnist_jax.runtime.command" in imported
    assert not imported & {"jax", "tensorflow"}  # So it comes at once.
    return done.stdout


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_fits_a_screen_and_says_how_to_use_it(self, command):
        page = ask(command, "--help")
        lines = page.splitlines()
        assert len(lines) <= 50
        assert max(map(len, lines)) <= 100
        examples = [line for line in lines if line.startswith("    python ")]
        assert len(examples) >= 3
        assert all(" ".join(COMMANDS[command]) in line for line in examples)
        assert "--workdir" in page

    def test_has_each_field_its_value_and_its_comment(self):
        page = ask("train", "-h", "--config", "configs/none.py")
        table = page.partition("Fields")[2]
        rows = [line.split(maxsplit=1) for line in table.splitlines()]
        rows = [row for row in rows if row and row[0] in default.get_config()]
        config = default.get_config()
        assert sorted(name for name, *_ in rows) == sorted(config)
        for name, rest in rows:
            value = config[name]
            assert rest.startswith(str(value) or "''")
        words = " ".join(table.split())
        for line in (ROOT / "configs" / "default.py").read_text().splitlines():
            comment = line.strip()
            if comment.startswith("# "):
                assert comment[2:] in words

    def test_reads_fields_whatever_their_comments(self):
        source = (
            "# Not a field's.\n\nconfig.a = (1, 2)\n# Of b,\n# two lines.\nconfig.b = ''\n"
            "other = 3\nconfig.c = 'x y'  # Not above.\n"
        )
        assert help_page.read_fields(source) == [
            ("a", "(1, 2)", ""),
            ("b", "''", "Of b, two lines."),
            ("c", "x y", ""),
        ]

    def test_absls_own_list_is_still_to_be_had(self):
        done = subprocess.run(
            [sys.executable, "train.py", "--helpfull"], cwd=ROOT, capture_output=True, text=True
        )
        assert "logtostderr" in done.stdout


class TestColour:
    """Of an error's line; warnings go the same way."""

    MESSAGE = "config: which one? give --config configs/default.py"

    def stderr(self, *, terminal: bool, **environment: str) -> bytes:
        """What the command wrote, to a terminal or into a pipe."""
        mine, its = pty.openpty() if terminal else os.pipe()
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
        with subprocess.Popen(
            [sys.executable, "train.py"], cwd=ROOT, stderr=its, env=kept | environment
        ) as process:
            os.close(its)
            written = b""
            try:
                while piece := os.read(mine, 4096):
                    written += piece
            except OSError:  # How a terminal's end reads, where the other side is closed.
                pass
            finally:
                os.close(mine)
        assert process.returncode == 2
        return written

    def test_is_red_on_a_terminal(self):
        written = self.stderr(terminal=True, TERM="xterm")
        assert written == f"\33[31m{self.MESSAGE}\33[m\r\n".encode()

    @pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
    def test_is_none_where_the_user_wants_none(self, name):
        environment = {"NO_COLOR": "1"} if name == "NO_COLOR" else {"TERM": "dumb"}
        written = self.stderr(terminal=True, **environment)
        assert written == f"{self.MESSAGE}\r\n".encode()

    def test_is_none_in_a_pipe(self):
        written = self.stderr(terminal=False, TERM="xterm")
        assert written == f"{self.MESSAGE}\n".encode()

    def test_warnings_have_their_own(self, monkeypatch, capsys):
        from mnist_jax.runtime import terminal

        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        terminal.print_warning("WARNING: this")
        monkeypatch.setenv("NO_COLOR", "1")
        terminal.print_warning("WARNING: that")
        assert capsys.readouterr().err == "\33[33mWARNING: this\33[m\nWARNING: that\n"
