import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from mnist_jax import train_loop
from mnist_jax.reporting.profiling import Profiler
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import UserError


def traced_steps(workdir: Path) -> list[int]:
    """The steps of the only trace, in Perfetto's form."""
    (path,) = workdir.glob("plugins/profile/*/perfetto_trace.json.gz")
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    steps = sorted((e for e in events if e.get("name") == "train"), key=lambda e: e["ts"])
    assert all(event["dur"] > 0 for event in steps)
    return [int(event["args"]["step_num"]) for event in steps]


def test_a_run_traces_each_of_the_steps(
    fake_config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fake_config.profile_steps = (13, 22)
    train_loop.train_and_evaluate(fake_config, tmp_path)
    assert traced_steps(tmp_path) == list(range(13, 23))
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
    assert f"Profile: {tmp_path}/plugins/profile" in capsys.readouterr().out


def test_an_interrupted_trace_is_written(tmp_path: Path):
    printed: list[str] = []
    profiler = Profiler(tmp_path, (2, 9), printed.append)
    for step in (1, 2, 3):
        assert profiler.call(range(step, step + 1), jnp.sin, 0.0) == 0
    profiler.close()
    assert traced_steps(tmp_path) == [2, 3]
    assert len(printed) == 1


def test_without_steps_nothing_is_traced(tmp_path: Path):
    profiler = Profiler(tmp_path, (), print)
    assert profiler.call(range(1, 5), int, "11", base=2) == 3
    profiler.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("window", [(20,), (0, 5), (9, 8), (1.0, 2.0), (41, 50), (30, 41)])
def test_invalid_steps_are_refused(fake_config: ConfigDict, window: tuple):
    fake_config.profile_steps = window
    with pytest.raises(UserError, match=r"config\.profile_steps: \("):
        config_lib.validate(fake_config)


def cuts(config: ConfigDict, first_step: int = 0) -> list[tuple[int, int]]:
    return [(steps[0], steps[-1]) for steps in train_loop.device_calls(config, first_step)]


def test_profiled_steps_and_the_one_before_run_alone(
    fake_config: ConfigDict,
):
    fake_config.profile_steps = (13, 15)
    assert cuts(fake_config) == [
        *[(1, 10), (11, 11), (12, 12), (13, 13), (14, 14), (15, 15), (16, 20)],
        *[(21, 30), (31, 40)],
    ]
    assert cuts(fake_config, 14) == [(15, 15), (16, 20), (21, 30), (31, 40)]
    fake_config.profile_steps = (1, 2)
    assert cuts(fake_config, 0)[:3] == [(1, 1), (2, 2), (3, 10)]


@pytest.mark.parametrize("function", ["start_trace", "stop_trace"])
def test_a_profile_that_fails_is_a_warning(
    function, fake_config, tmp_path, monkeypatch, capsys
):
    def fail(*args, **kwargs):
        raise RuntimeError("the profiler is busy")

    real_stop = jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, function, fail)
    fake_config.profile_steps = (5, 7)
    try:
        assert int(train_loop.train_and_evaluate(fake_config, tmp_path).step) == 40
    finally:
        if function == "stop_trace":
            real_stop()
    assert capsys.readouterr().err == "WARNING: no profile: the profiler is busy\n"
