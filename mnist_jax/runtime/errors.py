"""How a command ends when the reason is not a bug: one line on stderr, no traceback."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path


class CommandError(Exception):
    """Ends the command with `exit_code` and the message as its only line on stderr."""

    exit_code = 1


class UserError(CommandError):
    """A mistake in what the user gave; raised before anything on disk has changed.

    The message names the field or file, what is wrong with it, and what to do.
    """

    exit_code = 2


class DatasetUnavailableError(UserError):
    """The dataset is neither prepared, nor among local files, nor to be downloaded."""


class TrainingDivergedError(CommandError):
    """A number is no longer finite; neither this step nor a later one is saved."""

    def __init__(self, name: str, value: object, step: int, saved_steps: Sequence[int]):
        """Creates the message.

        Args:
          name: What is not finite, such as "the loss".
          value: Its value.
          step: Completed updates.
          saved_steps: Those of the checkpoints, ascending.
        """
        good = f"step {saved_steps[-1]}" if saved_steps else "none"
        super().__init__(
            f"Training diverged: {name} is {value} at step {step}; last good checkpoint: "
            f"{good}; lower config.learning_rate or set config.grad_clip_norm"
        )


class DamagedCheckpointError(CommandError):
    """A checkpoint cannot be read back, or not as what was saved."""


class WriteError(CommandError):
    """Something could not be written: the disk is full, read-only or failing."""


@contextlib.contextmanager
def writing_to(place: Path | str, expected: type[Exception] = OSError) -> Iterator[None]:
    """Turns the expected kind of error into a WriteError that names the place."""
    try:
        yield
    except expected as error:
        raise WriteError(
            f"{place}: can't be written to ({first_line(error.__cause__ or error)}); what is already there is "
            "intact: make it writable, then go on with the same command"
        ) from error


def first_line(error: BaseException) -> str:
    """Returns the first line of what a library says, shortened in its middle."""
    reason = getattr(error, "strerror", None)  # An OSError's, without its path.
    lines = str(reason or error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    line = re.split(r" \[\w+='", line, maxsplit=1)[0]  # TensorStore adds all its settings.
    return line if len(line) <= 300 else f"{line[:120]} ... {line[-160:]}"
