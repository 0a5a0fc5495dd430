"""The page that `--help` prints: a command's docstring, its flags, the fields of a config."""

import ast
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags

_WIDTH = 100


def create(config_file: Path | None) -> str:
    """Returns the page of the command that runs, with the fields of a config file, if any."""
    rows = []
    for flag in flags.FLAGS.get_flags_for_module(sys.argv[0]):
        has_default = flag.default and flag.name != "config"  # Its help names the file.
        default = f" Default: {flag.default}." if has_default else ""
        rows.append((f"--{flag.name}", f"{flag.help}{default}"))
    docstring = sys.modules["__main__"].__doc__ or ""
    sections = [docstring.strip(), f"Flags:\n{_table(rows)}"]
    if config_file:
        name = config_file.relative_to(config_file.parent.parent)
        fields = read_fields(config_file.read_text())
        sections.append(f"Fields, and their values in {name}:\n{_table(fields)}")
    return "\n\n".join(sections)


def read_fields(source: str) -> list[tuple[str, str, str]]:
    """Returns the fields that a config file assigns, `config.name = literal`, in order.

    Each as its name, its value (a string without quotes, unless empty), and the comment
    directly above it.
    """
    lines = source.splitlines()
    fields = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)):
            continue
        first = last = node.lineno - 1
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        comment = " ".join(line.strip().removeprefix("# ") for line in lines[first:last])
        value = ast.literal_eval(node.value)
        text = value if isinstance(value, str) and value else repr(value)
        fields.append((node.targets[0].attr, text, comment))
    return fields


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lays out rows in columns; the last column is wrapped."""
    *widths, _ = (max(map(len, column)) + 2 for column in zip(*rows, strict=True))
    lines: list[str] = []
    for *cells, text in rows:
        start = "  " + "".join(map(str.ljust, cells, widths))
        lines += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=start,
            subsequent_indent=" " * len(start),
            break_on_hyphens=False,
        ) or [start.rstrip()]
    return "\n".join(lines)
