"""SIGTERM, SIGINT and SIGHUP: recorded where a run can be saved, else they end the process."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_jax.runtime.signals import PreemptedError, SignalWatch
from tests.conftest import ROOT

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """Handlers of our own; those from before are restored at the end."""
    own = {signum: lambda *_: None for signum in SIGNALS}
    previous = {signum: signal.signal(signum, own[signum]) for signum in SIGNALS}
    yield own
    for signum, handler in previous.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_recorded(signum: signal.Signals, handlers):
    with SignalWatch() as watch:
        assert watch.signum is None
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.signum == signum
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers
    assert PreemptedError(signum, 1, Path()).exit_code == 128 + signum


def test_a_hangup_that_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with SignalWatch() as watch:
        os.kill(os.getpid(), signal.SIGHUP)
        assert watch.signum is None


def test_other_threads_can_run_a_loop_but_receive_no_signals(handlers):
    def run() -> None:
        with SignalWatch():
            unchanged.append(signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM])

    unchanged: list[bool] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert unchanged == [True]


@pytest.mark.parametrize(
    ("program", "exit_code", "message"),
    [
        ("signals.exit_at_signals(); os.kill(me, signal.SIGTERM)", 143, "SIGTERM"),
        ("signals.exit_at_signals(); os.kill(me, signal.SIGINT)", 130, "SIGINT"),
        ("signals.exit_at_signals(); os.kill(me, signal.SIGHUP)", 129, "SIGHUP"),
        (
            "signals.SignalWatch().__enter__(); "
            "os.kill(me, signal.SIGTERM); os.kill(me, signal.SIGINT)",
            130,
            "SIGINT",
        ),
    ],
)
def test_a_signal_at_another_time_ends_the_process(program, exit_code, message):
    head = "import os, signal; from mnist_jax.runtime import signals; me = os.getpid(); "
    ended = subprocess.run(
        [sys.executable, "-c", head + program], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == exit_code
    assert ended.stderr == f"Stopped at once by {message}\n"
