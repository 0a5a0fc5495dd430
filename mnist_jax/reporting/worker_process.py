"""A process beside the training that is given work through a pipe, and its end of the pipe.

TensorBoard's event files are written and figures drawn in such processes: in a thread that
would hold up the training's own Python. The process is one of this package's modules, run as
a program; it ends when its parent does, also when that is killed.
"""

import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class WorkerProcess:
    """Runs `python -m MODULE PARENT`, a program that calls `serve`."""

    def __init__(self, module: str):
        package = str(Path(__file__).parent.parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What goes wrong is answered; what libraries say beside would break our lines.
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            # Ctrl-C is for the run, which still wants its reports. No session of its own: the
            # kernel may weigh sessions against each other, whatever their processes' priority.
            process_group=0,
        )

    def send(self, request: Any) -> None:
        """Hands over a request; returns once it fits into the pipe.

        Raises:
          OSError: The process is gone.
        """
        assert self._process.stdin is not None
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._is_gone() from error

    def receive(self) -> Any:
        """Waits for the next answer.

        Raises:
          OSError: The process is gone.
        """
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:  # Nothing, or half an answer.
            raise self._is_gone() from error

    def has_ended(self) -> bool:
        """Returns whether it has, which it should not before `close`."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Waits for its end: where it was not killed, until it has served all that was sent."""
        self._process.communicate()

    def kill(self) -> None:
        """Ends it at once; who waits in `receive` gets an OSError. Then `close`."""
        self._process.kill()

    def _is_gone(self) -> OSError:
        return OSError(f"the process that writes it ended with {self._process.wait()}")


def serve(prepare: Callable[[], Callable[[Any], Any]]) -> None:
    """Answers the requests of the parent, as long as there is one.

    Args:
      prepare: Imports what is needed, and returns what turns a request into its answer. The
        first answer, None, says that this is done.
    """
    parent = int(sys.argv[1])
    os.nice(10)  # The training goes first.
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What libraries print is no answer.
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    gc.disable()  # To walk over what the imports allocate would take as long as they do.
    respond = prepare()
    gc.freeze()
    answer = None
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        gc.collect()  # Now that nobody waits.
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        if os.getppid() != parent:
            return  # What it had sent is no longer wanted: see `_end_with`.
        answer = respond(request)


def _end_with(parent: int) -> None:
    """Ends this process soon after a parent that was killed.

    The next attempt at the run may already be under way, and is to find its files to itself.
    """
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(0)
