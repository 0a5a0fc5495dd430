"""A trace of a window of training steps, for TensorBoard's Profile tab and for Perfetto.

`<workdir>/plugins/profile/<time>/` holds it in both forms: `*.xplane.pb` and
`perfetto_trace.json.gz`, which https://ui.perfetto.dev opens.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import jax

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Profiler:
    """Traces the device calls of a window of steps; a context manager that ends the trace."""

    def __init__(self, workdir: Path, window: Sequence[int], tell: Callable[[str], None]):
        """Traces nothing yet.

        Args:
          workdir: The run's folder.
          window: The first and the last step to trace, or nothing.
          tell: Called with a line that says where the trace is.
        """
        self._workdir = workdir
        self._window = range(window[0], window[1] + 1) if window else range(0)
        self._tell = tell
        self._is_tracing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_tracing:
            self._stop()

    def call(
        self, steps: range, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Calls the function, which performs the steps; traced and waited for in the window."""
        if steps[-1] not in self._window:
            return function(*args, **kwargs)
        if not self._is_tracing:
            self._start()
        with jax.profiler.StepTraceAnnotation("train", step_num=steps[-1]):
            # Waited for inside, so that the step's event is as long as the step.
            result = jax.block_until_ready(function(*args, **kwargs))
        if steps[-1] == self._window[-1]:
            self._stop()
        return result

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        # Else Python's calls, those of imports in other threads too, fill the trace.
        options.python_tracer_level = 0
        jax.profiler.start_trace(
            self._workdir, create_perfetto_trace=True, profiler_options=options
        )
        self._is_tracing = True

    def _stop(self) -> None:
        self._is_tracing = False
        jax.profiler.stop_trace()
        self._tell(f"Profile: {self._workdir / 'plugins' / 'profile'}")
