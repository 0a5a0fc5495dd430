"""Commands in processes that are forked from one that has imported the libraries.

Each has flags, signals, streams, a folder and an exit code of its own, and costs a tenth of a
second instead of seconds. What the interpreter does before and after a command is not covered.
"""

import importlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from tests.faults.processes import Ended

_PRELOADED = [
    "mnist_jax.__main__",
    "mnist_jax.data.tfds_preparation",
    "mnist_jax.digits.normalize",
    "mnist_jax.restoring",
    "mnist_jax.train_loop",
    "tests.faults.forked",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED)


def run(
    arguments: list[str], cwd: Path, environment: dict[str, str] | None = None, **options: Any
) -> Ended:
    """Runs `mnist-jax` with the arguments, or the script that the first of them names.

    The exit code of one that hangs is -9. `options` are those of `_prepare`.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr", "exit_code")]
        process = _CONTEXT.Process(
            target=_run, args=(arguments, cwd, environment or {}, options, *files), daemon=True
        )
        process.start()
        process.join(60)
        if process.exitcode is None:
            process.kill()
            process.join()
        # multiprocessing loses an exit code where several threads start processes.
        is_written = files[2].exists()
        code = int(files[2].read_text()) if is_written else process.exitcode or 1
        return Ended(code, files[0].read_text(), files[1].read_text())


def _run(
    arguments: list[str],
    cwd: Path,
    environment: dict[str, str],
    options: dict[str, Any],
    stdout: Path,
    stderr: Path,
    exit_code: Path,
) -> None:
    for descriptor, path in ((1, stdout), (2, stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.dont_write_bytecode = True  # Of a config file: it is no change of the folder.
    os.chdir(cwd)
    os.environ.update(environment)
    if "JAX_COMPILATION_CACHE_DIR" in environment:  # JAX, which is imported, reads it no more.
        jax.config.update("jax_compilation_cache_dir", environment["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    _prepare(**options)
    is_script = arguments[0].endswith(".py")
    sys.argv = arguments if is_script else ["mnist-jax", *arguments]
    try:
        if is_script:
            sys.path.insert(0, str(cwd))
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            importlib.import_module("mnist_jax.__main__").main()
    except SystemExit as end:
        exit_code.write_text(str(end.code or 0))
    else:
        exit_code.write_text("0")


def _prepare(
    code: Path | None = None,
    fields: Mapping[str, Any] = MappingProxyType({}),
    kill_at: int | None = None,
) -> None:
    """Prepares a process.

    Args:
      code: The folder of another copy of the package.
      fields: Of the config with which scripts begin.
      kill_at: Kills the process when it has dispatched the device call that reaches this step.
    """
    if code:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mnist_jax"]:
            del sys.modules[name]
        sys.path.insert(0, str(code))
    if fields:
        default = importlib.import_module("mnist_jax.configs.default")
        create = default.get_config

        def get_config() -> Any:
            config = create()
            config.update(fields)
            return config

        default.get_config = get_config
    if kill_at:
        train_loop = importlib.import_module("mnist_jax.train_loop")
        dispatch = train_loop.train_steps

        def train_steps(*args: Any, **kwargs: Any) -> Any:
            state, metrics = dispatch(*args, **kwargs)
            if int(state.step) >= kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return state, metrics

        train_loop.train_steps = train_steps
