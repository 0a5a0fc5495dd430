"""A trace of some training steps, for TensorBoard's Profile tab and https://ui.perfetto.dev."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import jax

from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import first_line

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Profiler:
    """Traces the device calls of some steps into `<workdir>/plugins/profile/<time>/`."""

    def __init__(
        self, workdir: Path, profile_steps: Sequence[int], print_line: Callable[[str], None]
    ):
        """Starts no trace yet; `profile_steps` are the first and the last step, or ()."""
        self._workdir = workdir
        self._print_line = print_line
        first, last = profile_steps or (0, -1)
        self._steps = range(first, last + 1)
        self._is_tracing = False

    def call(
        self, steps: range, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Calls the function that performs the steps; traces it if they are to be traced."""
        if steps[-1] not in self._steps:
            return function(*args, **kwargs)
        if not self._is_tracing:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Python's own calls would fill the trace.
            with self._warning():
                jax.profiler.start_trace(
                    self._workdir, create_perfetto_trace=True, profiler_options=options
                )
                self._is_tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=steps[-1]):
            # Waits for the result, so that the event is as long as the step.
            result = jax.block_until_ready(function(*args, **kwargs))
        if steps[-1] + 1 == self._steps.stop:
            self.close()
        return result

    def close(self) -> None:
        """Writes the trace, also one that was interrupted."""
        if self._is_tracing:
            self._is_tracing = False
            with self._warning():
                jax.profiler.stop_trace()
                self._print_line(f"Profile: {self._workdir / 'plugins' / 'profile'}")

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Of any type: it must not end the training.
            self._steps = range(0)
            terminal.print_warning(f"WARNING: no profile: {first_line(error)}")
