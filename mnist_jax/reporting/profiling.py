"""A trace of some training steps, for TensorBoard's Profile tab and for Perfetto.

`<workdir>/plugins/profile/<time>/` contains it in both forms: `*.xplane.pb` and
`perfetto_trace.json.gz`, which https://ui.perfetto.dev opens.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Profiler:
    """Traces the device calls of some steps."""

    def __init__(
        self, workdir: Path, profile_steps: Sequence[int], print_line: Callable[[str], None]
    ):
        """Creates an idle profiler.

        Args:
          workdir: The run's folder.
          profile_steps: The first and the last step to trace, or ().
          print_line: Called with the place of the trace.
        """
        self._workdir = workdir
        self._print_line = print_line
        first, last = profile_steps or (0, -1)
        self._steps = range(first, last + 1)
        self._is_tracing = False

    def call(
        self, steps: range, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Calls the function that performs the steps; traces it where that is due."""
        if steps[-1] not in self._steps:
            return function(*args, **kwargs)
        if not self._is_tracing:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Python's own calls would fill the trace.
            jax.profiler.start_trace(
                self._workdir, create_perfetto_trace=True, profiler_options=options
            )
            self._is_tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=steps[-1]):
            # Waits for the result, so that the event is as long as the step.
            result = jax.block_until_ready(function(*args, **kwargs))
        if steps[-1] == self._steps[-1]:
            self.close()
        return result

    def close(self) -> None:
        """Writes the trace, also one that was interrupted."""
        if self._is_tracing:
            self._is_tracing = False
            jax.profiler.stop_trace()
            self._print_line(f"Profile: {self._workdir / 'plugins' / 'profile'}")
