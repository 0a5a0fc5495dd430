"""Runs a command: parses its flags, calls `main`, and converts errors into exit codes."""

import atexit
import gc
import itertools
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mnist_jax.runtime import compile_cache, config, help_page, signals, terminal
from mnist_jax.runtime.errors import CommandError, UserError, writing_to


def run(
    main: Callable[..., None], *, positional: str | None = None, config_file: Path | None = None
) -> None:
    """Parses the flags, calls `main` and exits: with 0, or with a CommandError's exit code.

    Args:
      main: Called with the positional arguments. It should import jax itself: then errors in
        flags are reported at once, and signals are handled while it imports.
      positional: Name of the positional arguments, if the command needs them.
      config_file: Config file whose fields `--help` lists.
    """
    signals.exit_at_signals()
    sys.unraisablehook = _print_unraisable
    # Searching the objects of the imports for garbage takes a fifth of a short run's time.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)

    def call(arguments: Sequence[str]) -> None:
        with compile_cache.enabled():
            main(*arguments)
        with writing_to("stdout"):
            print(end="", flush=True)

    try:
        if {"-h", "-help", "--help"}.intersection(itertools.takewhile("--".__ne__, sys.argv)):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # For `--help | head`.
            with writing_to("stdout"):
                print(help_page.create(config_file), flush=True)
        else:
            app.run(call, flags_parser=lambda argv: parse_flags(argv, positional))
    except CommandError as error:
        try:
            print(end="", flush=True)
        except OSError:
            sys.stdout = None  # The interpreter would flush it again, and print a traceback.
        terminal.print_error(error)
        sys.exit(error.exit_code)


def parse_flags(argv: Sequence[str], positional: str | None = None) -> Sequence[str]:
    """Parses the flags, returns the positional arguments; raises UserError for wrong ones."""
    try:
        # absl logs INFO by default, all of orbax's messages; errors are raised in any case.
        arguments = flags.FLAGS([argv[0], f"--verbosity={logging.FATAL}", *argv[1:]])[1:]
    except Exception as error:  # Of any type: ml_collections runs the config file here.
        raise UserError(_describe(error)) from error
    if arguments and not positional:
        hint = f"; did you mean --{arguments[0]}?" if "=" in arguments[0] else ""
        raise UserError(f"{arguments[0]}: not a flag{hint}")
    if positional and not arguments:
        raise UserError(f"{positional}: missing; give one or more")
    return arguments


def read_config() -> tuple[ConfigDict, str]:
    """Returns the config of `--config`, locked, and its file's name, or raises UserError."""
    flag = flags.FLAGS["config"]
    file = Path(config_flags.get_config_filename(flag))
    if not file.is_file():
        raise UserError(f"config: {file}: no such file")
    if not isinstance(flag.value, ConfigDict):
        raise UserError(f"config: {file}: its get_config() fails or returns no ConfigDict")
    config.validate(flag.value)
    return flag.value.lock(), file.stem


def _describe(error: BaseException) -> str:
    """Returns one line for an error of the flags, or of the config file."""
    # ml_collections and absl wrap the file's error, with its traceback in their own texts.
    while error.__context__ and "\n" in str(error):
        error = error.__context__
    text = " ".join(str(error).split())
    return text if isinstance(error, flags.Error) else f"config: {type(error).__name__}: {text}"


def _print_unraisable(unraisable: Any) -> None:
    # If an array of a checkpoint can't be written, orbax raises and closes the event loop, and
    # TensorStore's threads still call it for the other arrays.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
