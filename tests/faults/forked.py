"""Commands in processes that are forked from one that has imported the libraries.

Each has flags, signals, streams, a folder and an exit code of its own, and costs a tenth of a
second instead of seconds. What the interpreter does before and after a command is not covered.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from mnist_jax.__main__ import main
from tests.faults.processes import Ended

_PRELOADED = [
    "mnist_jax.data.tfds_preparation",
    "mnist_jax.digits.normalize",
    "mnist_jax.restoring",
    "mnist_jax.train_loop",
    "tests.faults.forked",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED)


def run(arguments: list[str], cwd: Path, environment: dict[str, str] | None = None) -> Ended:
    """Runs `mnist-jax` with the arguments; the exit code of one that hangs is -9."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr", "exit_code")]
        process = _CONTEXT.Process(
            target=_run, args=(arguments, cwd, environment or {}, *files), daemon=True
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
    stdout: Path,
    stderr: Path,
    exit_code: Path,
) -> None:
    for descriptor, path in ((1, stdout), (2, stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = ["mnist-jax", *arguments]
    try:
        main()
        exit_code.write_text("0")
    except SystemExit as end:
        exit_code.write_text(str(end.code or 0))
