"""Lines on stderr: errors red and warnings yellow, but on a terminal only.

`NO_COLOR` in the environment (https://no-color.org) leaves out the colours there too.
"""

import os
import sys


def print_error(text: object) -> None:
    """Prints what went wrong."""
    _print(text, "\33[31m")


def print_warning(text: object) -> None:
    """Prints what one should know of, though it is no error."""
    _print(text, "\33[33m")


def _print(text: object, colour: str) -> None:
    is_plain = (
        os.environ.get("NO_COLOR")
        or os.environ.get("TERM") == "dumb"
        or not sys.stderr.isatty()
    )
    print(text if is_plain else f"{colour}{text}\33[m", file=sys.stderr, flush=True)
