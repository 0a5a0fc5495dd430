"""Runs a command: parses its flags, calls `main`, and converts errors into exit codes."""

import atexit
import contextlib
import gc
import itertools
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from mnist_jax.runtime import compile_cache, config, files, signals, terminal
from mnist_jax.runtime.errors import CommandError, UserError, first_line, writing_to

# Errors of the user, the files and the machine; all others are bugs, and keep their tracebacks.
_NO_BUGS = (CommandError, flags.Error, OSError, MemoryError, UnicodeError, RecursionError)
_NO_BUGS_OF_JAX = ("RESOURCE_EXHAUSTED", "Unable to initialize backend")  # RuntimeErrors.
_MIN_OPEN_FILES = 64  # A run needs 24; with fewer, orbax fails at the first save, or hangs.


class _TupleParser(TupleParser):
    """Refuses dicts and sets, of which ml_collections makes tuples: `{}` would be `()`."""

    def parse(self, argument: Any) -> tuple[Any, ...]:
        if "{" in str(argument):
            raise ValueError(f"{argument} is no tuple, like (128, 32)")
        return super().parse(argument)


config_flags.register_flag_parser_for_type(tuple, _TupleParser())


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
        compile_cache.enable()
        main(*arguments)
        with writing_to("stdout"):
            print(end="", flush=True)

    with errors_in_one_line():
        if {"-h", "-help", "--help"}.intersection(itertools.takewhile("--".__ne__, sys.argv)):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # For `--help | head`.
            with writing_to("stdout"):
                print(_create_help(config_file), flush=True)
        else:
            files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            if files < _MIN_OPEN_FILES and files != resource.RLIM_INFINITY:
                message = f"ulimit -n: {files} open files are too few"
                raise UserError(f"{message}; allow {_MIN_OPEN_FILES} or more")
            app.run(call, flags_parser=lambda argv: parse_flags(argv, positional))


def _create_help(config_file: Path | None) -> str:
    """Returns the command's docstring, its flags, and the config file's fields and comments."""
    docstring = sys.modules["__main__"].__doc__ or ""
    sections = [docstring.strip(), f"Flags of {flags.FLAGS.module_help(sys.argv[0]).strip()}"]
    if config_file:
        fields = re.findall(r"^(?:    (?:config\.|# ).*)?\n", config_file.read_text(), re.M)
        text = "".join(fields).strip("\n")
        sections.append(f"Fields of the config, and their values in {config_file}:\n{text}")
    return "\n\n".join(sections)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the process with one line on stderr at an error that is not a bug."""
    terminal.make_streams_safe()
    try:
        yield
    except Exception as error:
        if not (isinstance(error, _NO_BUGS) or str(error).startswith(_NO_BUGS_OF_JAX)):
            raise
        try:
            print(end="", flush=True)
        except OSError:
            sys.stdout = None  # The interpreter would flush it again, and print a traceback.
        if isinstance(error, flags.Error):  # Before the flags are parsed: a --flagfile.
            error = UserError(_describe(error))
        elif not isinstance(error, CommandError):
            place = getattr(error, "filename", None) or type(error).__name__
            error = CommandError(f"{place}: {first_line(error)}; what is saved is intact")
        terminal.print_error(error)
        sys.exit(error.exit_code)


def parse_flags(argv: Sequence[str], positional: str | None = None) -> Sequence[str]:
    """Parses the flags, returns the positional arguments; raises UserError for wrong ones."""
    for argument in argv[1:]:  # Reading a config file would wait for a pipe.
        if files.is_pipe_or_device((argument.partition("=")[2] or argument).split(":")[0]):
            raise UserError(f"{argument}: a pipe or a device; give a file or a folder")
    try:
        # absl logs INFO by default, all of orbax's messages; errors are raised in any case.
        arguments = flags.FLAGS([argv[0], f"--verbosity={logging.FATAL}", *argv[1:]])[1:]
    # Of any type: ml_collections runs the config file here.
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and any(
            arg.startswith(("--help", "-?")) for arg in argv
        ):
            raise  # absl's own pages.
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
    if not isinstance(flag.value, ConfigDict):
        exists = os.path.isfile(file)  # noqa: PTH113 - `Path.is_file` raises at a long name.
        problem = "its get_config() fails or returns no ConfigDict"
        raise UserError(f"config: {file}: {problem if exists else 'no such file'}")
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
