"""What a run prints: lines on stdout, and on a terminal a progress bar below them."""

import sys

import tqdm

from mnist_jax.runtime.errors import writing_to
from mnist_jax.runtime.terminal import printable


class Console:
    """Prints for all processes of a job; only the first one is not silent."""

    def __init__(self, *, first_step: int, num_steps: int, is_silent: bool):
        """Draws the bar, which is only for terminals."""
        self._is_silent = is_silent
        self._bar = tqdm.tqdm(
            total=num_steps,
            initial=first_step,
            unit=" steps",
            disable=is_silent or None,  # None: unless stderr is a terminal.
            dynamic_ncols=True,
            leave=False,
            bar_format="{l_bar}{bar}{r_bar}\r",  # The terminal writes `^C` at its cursor.
        )

    def print(self, text: str) -> None:
        """Prints lines on stdout without breaking the bar."""
        if not self._is_silent:
            with writing_to("stdout"):
                self._bar.write(printable(text, keep="\n"), file=sys.stdout)
                sys.stdout.flush()

    def advance(self, step: int) -> None:
        """Moves the bar to a step."""
        self._bar.update(step - self._bar.n)

    def show(self, text: str) -> None:
        """Shows the text at the end of the bar."""
        self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()
