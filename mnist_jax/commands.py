"""Runs a command: flags to `main`; a `CommandError` to one line on stderr and an exit code."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from mnist_jax import config
from mnist_jax.errors import CommandError, UserError


def run(main: Callable[[], None]) -> None:
    """Parses the flags, calls `main`, and exits: 0, or as the error that ended it says.

    Args:
      main: Finds the flags parsed. It imports jax and what stands on it itself, so that a
        mistyped flag is told at once, and Ctrl-C heeded while it imports.
    """
    _run(lambda arguments: main(), takes=None)


def run_with_arguments(main: Callable[[Sequence[str]], None], takes: str) -> None:
    """As `run`, for a command that is given something beside its flags.

    Args:
      main: Gets these arguments, one or more.
      takes: What they are, for the error where there are none.
    """
    _run(main, takes)


def _run(main: Callable[[Sequence[str]], None], takes: str | None) -> None:
    def call(arguments: Sequence[str]) -> None:
        try:
            main(arguments)
        except CommandError as error:
            _exit(error)
        except KeyboardInterrupt:
            _exit(CommandError("Interrupted before the training began"), 128 + signal.SIGINT)

    app.run(call, flags_parser=lambda argv: _parse_flags(argv, takes))


def _parse_flags(argv: Sequence[str], takes: str | None) -> Sequence[str]:
    """Returns what is no flag; ends the command where `takes` forbids or wants it."""
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest and takes is None:
            hint = f"; did you mean --{rest[0]}?" if "=" in rest[0] else ""
            raise UserError(f"{rest[0]}: not a flag{hint}")
        if takes and not rest:
            raise UserError(f"{takes}: which? give one or more")
    except UserError as error:
        _exit(error)
    except KeyboardInterrupt:
        _exit(CommandError("Interrupted before the training began"), 128 + signal.SIGINT)
    except Exception as error:  # Any: ml_collections runs the config file here.
        _exit(_as_user_error(error))
    verbosity = flags.FLAGS["verbosity"]
    if verbosity.using_default_value:
        verbosity.value = logging.ERROR  # absl would set INFO: all of orbax's notes.
        verbosity.using_default_value = False
    return rest


def _as_user_error(error: Exception) -> UserError:
    text = str(error).strip() or type(error).__name__
    # ml_collections: the config lacks the field; its message begins with the quoted name.
    lacking = re.match(r"['\"\\]+(\w+)", text)
    if isinstance(error, AttributeError) and lacking:
        return config.unknown_field(lacking[1])
    if isinstance(error, flags.Error):
        # Where it wraps an error of the config file, that is the last line.
        return UserError(
            text.splitlines()[-1] if "Traceback" in text else " ".join(text.split())
        )
    return UserError(f"config: {type(error).__name__}: {' '.join(text.split())}")


def _exit(error: CommandError, exit_code: int | None = None) -> NoReturn:
    sys.stdout.flush()
    print(error, file=sys.stderr, flush=True)
    # Without waiting for threads: an import of TensorFlow under way takes seconds yet.
    # Everything that had to be written, and could be, has been by now.
    os._exit(error.exit_code if exit_code is None else exit_code)
