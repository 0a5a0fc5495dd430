"""What is printed: as text, whatever names contain; errors are red and warnings yellow.

Colours are for terminals; `NO_COLOR` in the environment (https://no-color.org) disables them.
"""

import os
import sys


def printable(text: object, keep: str = "") -> str:
    """Returns the text with what can't be printed escaped, also newlines unless to `keep`."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in str(text))


def print_error(text: object) -> None:
    """Prints one line in red."""
    _print(printable(text), "\33[31m")


def print_warning(text: object) -> None:
    """Prints one or more lines in yellow."""
    _print(printable(text, keep="\n"), "\33[33m")


def _print(text: str, colour: str) -> None:
    is_plain = os.getenv("NO_COLOR") or os.getenv("TERM") == "dumb" or not sys.stderr.isatty()
    try:
        print(text if is_plain else f"{colour}{text}\33[m", file=sys.stderr, flush=True)
    except OSError:  # The interpreter would try again at its end, and change the exit code.
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
