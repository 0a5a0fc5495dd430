"""SIGTERM, SIGINT and SIGHUP: they end start-up at once; the training loop polls for them."""

import contextlib
import os
import signal
import threading
import types
from pathlib import Path

from mnist_jax.runtime.errors import CommandError


class PreemptedError(CommandError):
    """A signal stopped the run, after its state was saved."""

    def __init__(self, signum: int, step: int, workdir: Path):
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} after step {step}, which is saved; "
            f"resume with the same command and --workdir {workdir}"
        )
        self.exit_code = 128 + signum  # The shell's convention: 143, 130, 129.


def exit_at_signals() -> None:
    """Makes the signals end the process at once, with one line on stderr and no traceback."""
    for signum in _handled_signals():
        signal.signal(signum, _exit)


class SignalWatch(contextlib.ExitStack):
    """Records the first signal as `signum`, until it is closed; exits at a second SIGINT."""

    def __init__(self) -> None:
        super().__init__()
        self.signum: int | None = None
        if threading.current_thread() is threading.main_thread():  # Python allows no other.
            for signum in _handled_signals():
                self.callback(signal.signal, signum, signal.signal(signum, self._record))

    def _record(self, signum: int, frame: types.FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            _exit(signum, frame)
        self.signum = self.signum or signum


def _handled_signals() -> list[signal.Signals]:
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup sets it to be ignored.
        signals.append(signal.SIGHUP)
    return signals


def _exit(signum: int, frame: types.FrameType | None) -> None:
    # os.write: the signal may have interrupted a print. os._exit: an exception, raised inside
    # an import or a library's callback, may be caught there.
    clear = "\r\33[K" * os.isatty(2)  # A progress bar, and `^C`.
    os.write(2, f"{clear}Stopped at once by {signal.Signals(signum).name}\n".encode())
    os._exit(128 + signum)
