"""SIGTERM and SIGINT as requests that the loop asks for between device calls."""

import os
import signal
import threading
import types
from typing import Self

from mnist_jax.runtime.errors import CommandError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PreemptedError(CommandError):
    """The run was asked to stop, saved, and stopped."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signum  # The shell's convention: 143, 130.


def exit_at_signals() -> None:
    """Makes SIGTERM and SIGINT end the process at once, with one line and no traceback.

    For as long as there is nothing to save. Python's own KeyboardInterrupt may come up
    anywhere in an import, where somebody may swallow it.
    """
    for signum in _SIGNALS:
        signal.signal(signum, _exit)


def _exit(signum: int, frame: types.FrameType | None) -> None:
    # Not print: the signal may have come in the middle of one.
    os.write(2, f"Stopped at once by {signal.Signals(signum).name}\n".encode())
    os._exit(128 + signum)


class SignalWatch:
    """Notes the first SIGTERM or SIGINT while it is entered; a second SIGINT stops at once.

    Attributes:
      signum: Of the first signal that came; None before.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Else Python forbids it.
            for signum in _SIGNALS:
                self._former[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _note(self, signum: int, frame: types.FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            _exit(signum, frame)
        self.signum = self.signum or signum
