"""Runs a command: parses its flags, calls `main`, and converts errors into exit codes."""

import atexit
import contextlib
import gc
import inspect
import io
import itertools
import os
import re
import signal
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from mnist_jax.configs import default
from mnist_jax.runtime import compile_cache, config, signals, terminal
from mnist_jax.runtime.errors import CommandError, UserError, first_line, writing_to

# Errors of the user, the files and the machine; all others are bugs, and keep their tracebacks.
_NO_BUGS = (CommandError, flags.Error, OSError, MemoryError, UnicodeError, RecursionError)
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # So begins a RuntimeError of JAX.


def run(module: types.ModuleType, argv: list[str]) -> None:
    """Parses the flags, and calls the command's `main`.

    The command's docstring is its help, its key flags are those that it takes, and the
    parameter of its `main`, if any, names the positional arguments. `main` should import jax
    itself: then errors in flags are reported at once, and signals are handled meanwhile.
    """
    signals.exit_at_signals()
    sys.unraisablehook = _print_unraisable
    # Searching the objects of the imports for garbage takes a fifth of a short run's time.
    gc.set_threshold(100_000)
    # The loop waits this long for Python's lock, a hundred times in an evaluation, where the
    # thread that draws figures has it.
    sys.setswitchinterval(5e-4)
    atexit.register(gc.freeze)

    if {"-h", "-help", "--help"}.intersection(itertools.takewhile("--".__ne__, argv)):
        print_help(_create_help(module))
        return
    logging.use_absl_handler()  # The verbosity is then that of all Python logging.
    arguments = parse_flags(argv, module)
    compile_cache.enable()
    module.main(*arguments)
    with writing_to("stdout"):
        print(end="", flush=True)


def print_help(text: str) -> None:
    """Prints the text, which `| head` may cut."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with writing_to("stdout"):
        print(text, flush=True)


def _create_help(module: types.ModuleType) -> str:
    """Returns the command's docstring, its flags, and the config's fields and comments."""
    title = f"Flags of mnist-jax {module.__name__.rpartition('.')[2]}"
    options = flags.FLAGS.module_help(module).strip().replace(module.__name__, title, 1)
    sections = [(module.__doc__ or "").strip(), options]
    if any(flag.name == "config" for flag in flags.FLAGS.get_key_flags_for_module(module)):
        fields = re.findall(r"^(?:    (?:config\.|# ).*)?\n", inspect.getsource(default), re.M)
        text = "".join(fields).strip("\n")
        sections.append(
            f"Fields of the config, and their values in {default.__file__}:\n{text}"
        )
    return "\n\n".join(sections)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the process with one line on stderr at an error that is not a bug."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # As stderr's: for paths.
    try:
        yield
    except Exception as error:
        # So JAX ends where it has none of the platforms of JAX_PLATFORMS.
        if traceback.extract_tb(error.__traceback__)[-1].name == "backends":
            place = f"JAX_PLATFORMS: {os.getenv('JAX_PLATFORMS')}"
            error = UserError(f"{place}: {first_line(error)}; unset it or install its plugin")
        if not isinstance(error, _NO_BUGS) and not str(error).startswith(_OUT_OF_MEMORY):
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


def parse_flags(argv: Sequence[str], module: types.ModuleType) -> Sequence[str]:
    """Parses the flags, returns the positional arguments; raises UserError for wrong ones."""
    # absl logs INFO by default, all of orbax's messages; errors are raised in any case.
    argv = [argv[0], f"--verbosity={logging.FATAL}", *_name_config_files(argv[1:])]
    try:
        arguments = flags.FLAGS(argv)[1:]
    except UserError:
        raise
    except BaseException as error:  # Of any type: ml_collections runs the config file here.
        raise UserError(_describe(error)) from error
    own = flags.FLAGS.get_key_flags_for_module(module)
    for flag in flags.FLAGS.get_flags_for_module(f"{module.__package__}.flags"):
        if flag.present and flag not in own:
            raise UserError(f"--{flag.name}: not a flag of this command; see --help")
    positional = next(iter(inspect.signature(module.main).parameters.values()), None)
    if arguments and not positional:
        hint = f"; did you mean --{arguments[0]}?" if "=" in arguments[0] else ""
        raise UserError(f"{arguments[0]}: not a flag{hint}")
    if positional and positional.kind == positional.VAR_POSITIONAL and not arguments:
        raise UserError(f"{positional.name}: missing; give one or more")
    return arguments


def _name_config_files(arguments: Sequence[str]) -> Iterator[str]:
    """Yields the arguments, with the path of a config that has the name of one of ours."""
    for before, argument in itertools.pairwise(["", *arguments]):
        flag, is_same, value = argument.partition("=")
        if flag.lstrip("-") == "config" and is_same:
            yield f"{flag}={_find_config(value)}"
        else:
            yield _find_config(argument) if before in ("--config", "-config") else argument


def _find_config(config: str) -> str:
    name, ours = config.partition(":")[0], config_files()
    if os.path.isfile(name):  # noqa: PTH113 - `Path.is_file` raises at a long name.
        return config
    if name not in ours:
        choices = f"give its path, or one of {', '.join(ours)}"
        raise UserError(f"config: {name}: no such file; {choices}")
    return config.replace(name, str(ours[name]), 1)


def config_files() -> dict[str, Path]:
    """Returns the files of our own configs by their names."""
    files = Path(default.__file__).parent.glob("[!_]*.py")
    return {path.stem: path for path in sorted(files)}


def read_config() -> tuple[ConfigDict, str]:
    """Returns the config of `--config`, locked, and its file's name, or raises UserError."""
    flag = flags.FLAGS["config"]
    file = Path(config_flags.get_config_filename(flag))
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
    name = getattr(error, "flagname", None)  # Of an unknown flag.
    if "config" in flags.FLAGS and name in default.get_config():
        text += f"; did you mean --config.{name}?"
    return text if isinstance(error, flags.Error) else f"config: {type(error).__name__}: {text}"


def _print_unraisable(unraisable: Any) -> None:
    # If an array of a checkpoint can't be written, orbax raises and closes the event loop, and
    # TensorStore's threads still call it for the other arrays.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
