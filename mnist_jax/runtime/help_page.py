"""What `--help` prints: a command's docstring, its flags, the fields of a config."""

import ast
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

_WIDTH = 100


class Field(NamedTuple):
    """A field of a config, as its file has it.

    Attributes:
      name: The field's.
      value: The literal it is given; a string without its quotes, unless it is empty.
      comment: Of the lines right above; may be empty.
    """

    name: str
    value: str
    comment: str


def create(
    docstring: str, own_flags: Iterable[flags.Flag[Any]], config_file: Path | None
) -> str:
    """Returns the page.

    Args:
      docstring: Of the command's module.
      own_flags: The command's, without absl's.
      config_file: Where given, its fields are listed.
    """
    sections = [docstring.strip(), "Flags:\n" + _table([_row(flag) for flag in own_flags])]
    if config_file:
        place = config_file.relative_to(config_file.parent.parent)
        fields = read_fields(config_file.read_text())
        sections.append(f"Fields, and their values in {place}:\n{_table(fields)}")
    return "\n\n".join(sections)


def read_fields(source: str) -> list[Field]:
    """Returns the fields that a config file assigns, `config.name = literal`, in order."""
    lines = source.splitlines()
    assignments = [
        (node, target)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    ]
    fields = []
    for node, target in sorted(assignments, key=lambda pair: pair[0].lineno):
        first = last = node.lineno - 1
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        comment = " ".join(line.strip().removeprefix("# ") for line in lines[first:last])
        value = ast.literal_eval(node.value)
        shown = value if isinstance(value, str) and value else repr(value)
        fields.append(Field(target.attr, shown, comment))
    return fields


def _row(flag: flags.Flag[Any]) -> tuple[str, str]:
    default = f" Default: {flag.default}." if flag.default else ""
    return f"--{flag.name}", f"{flag.help}{default}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lays out rows in columns, of which the last is wrapped."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    lines: list[str] = []
    for *cells, text in rows:
        start = "  " + "".join(
            f"{cell:<{width + 2}}" for cell, width in zip(cells, widths, strict=True)
        )
        lines += textwrap.wrap(
            text or " ",
            _WIDTH,
            initial_indent=start,
            subsequent_indent=" " * len(start),
            break_on_hyphens=False,
        ) or [start.rstrip()]
    return "\n".join(lines)
