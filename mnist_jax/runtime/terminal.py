"""Lines on stderr: on a terminal errors are red and warnings yellow.

`NO_COLOR` in the environment (https://no-color.org) switches the colours off.
"""

import os
import sys


def print_error(text: object) -> None:
    """Prints one line in red; a newline, or what else can't be printed, is escaped."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    _print(line, "\33[31m")


def print_warning(text: object) -> None:
    """Prints the text in yellow."""
    _print(text, "\33[33m")


def _print(text: object, colour: str) -> None:
    is_plain = os.getenv("NO_COLOR") or os.getenv("TERM") == "dumb" or not sys.stderr.isatty()
    try:
        print(text if is_plain else f"{colour}{text}\33[m", file=sys.stderr, flush=True)
    except OSError:  # The interpreter would try again at its end, and change the exit code.
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
