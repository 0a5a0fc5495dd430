"""Lines on stderr: on a terminal errors are red and warnings yellow.

`NO_COLOR` in the environment (https://no-color.org) switches the colours off.
"""

import os
import sys


def print_error(text: object) -> None:
    """Prints the text in red."""
    _print(text, "\33[31m")


def print_warning(text: object) -> None:
    """Prints the text in yellow."""
    _print(text, "\33[33m")


def _print(text: object, colour: str) -> None:
    is_plain = os.getenv("NO_COLOR") or os.getenv("TERM") == "dumb" or not sys.stderr.isatty()
    print(text if is_plain else f"{colour}{text}\33[m", file=sys.stderr, flush=True)
