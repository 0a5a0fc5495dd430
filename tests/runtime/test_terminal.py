"""Lines are printed as text, and in colour only by terminals that show colours."""

import sys

import pytest

from mnist_jax.runtime import terminal


@pytest.mark.parametrize(
    ("is_terminal", "environment", "is_coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colours(is_terminal, environment, is_coloured, monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    terminal.print_error("wrong")
    terminal.print_warning("WARNING: odd")
    plain = "wrong\nWARNING: odd\n"
    coloured = "\33[31mwrong\33[m\n\33[33mWARNING: odd\33[m\n"
    assert capsys.readouterr().err == (coloured if is_coloured else plain)


def test_what_a_name_contains_is_printed_but_not_obeyed(capsys):
    name = "a\33[2Jb\nc\r\u202e é"
    assert terminal.printable(name) == "a\\x1b[2Jb\\nc\\r\\u202e é"
    terminal.print_error(name)
    terminal.print_warning(f"two\nlines{name}")
    escaped = terminal.printable(name)
    lines = "two\nlines" + escaped.replace("\\n", "\n")
    assert capsys.readouterr().err == f"{escaped}\n{lines}\n"
