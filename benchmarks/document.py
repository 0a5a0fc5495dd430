"""Writes results into a section of a document, between its two markers."""

import re
from pathlib import Path


def replace_section(path: Path, name: str, content: str) -> None:
    """Replaces the text between `<!-- name -->` and `<!-- /name -->`.

    Raises:
      ValueError: The document does not have exactly one such section.
    """
    text = path.read_text()
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    replaced, count = re.subn(
        pattern, lambda match: f"{match[1]}{content.strip()}\n{match[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{path}: has {count} sections <!-- {name} -->, expected 1")
    path.write_text(replaced)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a markdown table; the first column is text, the others are right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
