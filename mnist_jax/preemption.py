"""SIGTERM and SIGINT as requests that the loop asks for between device calls."""

import os
import signal
import threading
import types
from typing import Self

from mnist_jax.errors import CommandError


class PreemptedError(CommandError):
    """The run was asked to stop, saved, and stopped."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signum  # The shell's convention: 143, 130.


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
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._former[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _note(self, signum: int, frame: types.FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            os._exit(128 + signum)
        self.signum = self.signum or signum
