"""Errors that are not bugs: each ends the command with one line on stderr, no traceback."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path


class CommandError(Exception):
    """Ends the command; the message is its only line on stderr."""

    exit_code = 1


class UserError(CommandError):
    """A mistake in the user's input, found before any file changed; says what to do."""

    exit_code = 2


class DatasetUnavailableError(UserError):
    """The dataset is not prepared, has no local archives, and can't be downloaded."""


class TrainingDivergedError(CommandError):
    """A number, named `name`, is not finite after `step` updates; that step is not saved."""

    def __init__(self, name: str, value: object, step: int, saved_steps: Sequence[int]):
        good = f"step {saved_steps[-1]}" if saved_steps else "none"
        super().__init__(
            f"Training diverged: {name} is {value} at step {step}; last good checkpoint: "
            f"{good}; lower config.learning_rate or set config.grad_clip_norm"
        )


class DamagedCheckpointError(CommandError):
    """A checkpoint can't be read, or differs from what was saved."""


class WriteError(CommandError):
    """A write failed: the disk is full, read-only or broken."""


@contextlib.contextmanager
def writing_to(place: Path | str, expected: type[Exception] = OSError) -> Iterator[None]:
    """Converts errors of the expected type into a WriteError that names the place."""
    try:
        yield
    except expected as error:
        raise WriteError(
            f"{place}: can't be written to ({first_line(error.__cause__ or error)}); what is "
            "already there is intact: make it writable, then run the same command again"
        ) from error


@contextlib.contextmanager
def refusing(
    place: Path | str,
    advice: str,
    expected: type[Exception] | tuple[type[Exception], ...] = OSError,
) -> Iterator[None]:
    """Converts errors of the expected types into a UserError: the place, why, the advice."""
    try:
        yield
    except UserError:
        raise
    except expected as error:
        raise UserError(f"{place}: {first_line(error)}; {advice}") from error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, shortened in the middle."""
    reason = getattr(error, "strerror", None)  # An OSError's message without its path.
    line = str(reason or error).strip().partition("\n")[0] or type(error).__name__
    line = re.split(r" \[\w+='", line, maxsplit=1)[0]  # TensorStore appends its settings.
    return line if len(line) <= 300 else f"{line[:120]} ... {line[-160:]}"
