"""Runs a command: flags to `main`; a `CommandError` to one line on stderr and an exit code.

`-h` and `--help` print a page of our own; absl's list of all flags is `--helpfull`.
"""

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from mnist_jax.runtime import compile_cache, config, help_page, terminal
from mnist_jax.runtime import signals as preemption
from mnist_jax.runtime.errors import CommandError, UserError, writing_to


def run(main: Callable[[], None], config_file: Path | None = None) -> None:
    """Parses the flags, calls `main`, and exits: 0, or as the error that ended it says.

    Args:
      main: Finds the flags parsed. It imports jax and what stands on it itself, so that a
        mistyped flag is told at once, and Ctrl-C heeded while it imports.
      config_file: Where given, `--help` lists its fields.
    """
    _run(lambda arguments: main(), takes=None, config_file=config_file)


def run_with_arguments(main: Callable[[Sequence[str]], None], takes: str) -> None:
    """As `run`, for a command that is given something beside its flags.

    Args:
      main: Gets these arguments, one or more.
      takes: What they are, for the error where there are none.
    """
    _run(main, takes, config_file=None)


def _run(
    main: Callable[[Sequence[str]], None], takes: str | None, config_file: Path | None
) -> None:
    if not {"-h", "-help", "--help"}.isdisjoint(itertools.takewhile("--".__ne__, sys.argv)):
        docstring = sys.modules["__main__"].__doc__ or ""
        own_flags = flags.FLAGS.get_flags_for_module(sys.argv[0])
        print(help_page.create(docstring, own_flags, config_file))
        return

    def call(arguments: Sequence[str]) -> None:
        try:
            with compile_cache.kept():
                main(arguments)
            with writing_to("stdout"):
                sys.stdout.flush()
        except CommandError as error:
            _exit(error)
        # Without the interpreter's own end, which takes apart for a quarter of a second what
        # the end of the process frees anyway. All is written, and every context left.
        os._exit(0)

    preemption.exit_at_signals()
    logging.set_verbosity(logging.FATAL)  # ml_collections warns while flags are parsed.
    sys.unraisablehook = _ignore_late_callbacks
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
    except Exception as error:  # Any: ml_collections runs the config file here.
        _exit(_as_user_error(error))
    verbosity = flags.FLAGS["verbosity"]
    if verbosity.using_default_value:
        # absl would set INFO: all of orbax's notes. Its errors are raised here anyway.
        verbosity.value = logging.FATAL
        verbosity.using_default_value = False
    return rest


def _ignore_late_callbacks(unraisable: Any) -> None:
    """Keeps quiet what follows from an error that is told already.

    Where one array of a checkpoint can't be written, orbax closes the event loop that
    TensorStore's threads then still call back for the others.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _as_user_error(error: Exception) -> UserError:
    text = str(error).strip() or type(error).__name__
    # ml_collections: the config lacks the field; its message begins with the quoted name.
    lacking = re.match(r"['\"\\]+(\w+)", text)
    if isinstance(error, AttributeError) and lacking:
        return config.unknown_field(lacking[1])
    if isinstance(error, flags.Error):
        # Where it wraps an error of the config file, that is what follows the traceback's
        # indented lines.
        own = (
            re.split(r"^  .*\n", text, flags=re.MULTILINE)[-1] if "Traceback" in text else text
        )
        return UserError(" ".join(own.split()))
    return UserError(f"config: {type(error).__name__}: {' '.join(text.split())}")


def _exit(error: CommandError) -> NoReturn:
    with contextlib.suppress(OSError):  # Whoever read stdout may be gone.
        sys.stdout.flush()
    terminal.print_error(error)
    # Without waiting for threads: an import under way, say TensorFlow's, takes seconds yet.
    # Everything that had to be written, and could be, has been by now.
    os._exit(error.exit_code)
