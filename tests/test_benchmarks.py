"""The arithmetic of the benchmarks, and that their programs start."""

import gzip
import json
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from benchmarks import compare, document, gpu, growth, limits, process, report, step_cost
from benchmarks import results as results_lib
from benchmarks.contestants.stopwatch import Stopwatch
from tests.conftest import ROOT

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
TUTORIAL = (784, 128, 32, 10)
REPORTED = "".join(
    f"<!-- {name} -->\nold\n<!-- /{name} -->\n"
    for name in (
        *(f"compare: {part}" for part in ("machine", "table", "bars", "cnn", "evaluate")),
        "growth",
    )
)


def runs_of(*speeds: float, accuracy: float = 0.9, **figures: float) -> list[dict]:
    return [
        {"steps_per_second": speed, "wall_s": 4.0, "test_accuracy": accuracy, **figures}
        for speed in speeds
    ]


def test_a_summary_is_over_the_runs_that_have_the_figure():
    runs = [*runs_of(3, 1, 8), {"peak_pss_mib": 700.0}]
    assert results_lib.summarize(runs, "steps_per_second") == (3, 1, 8)
    assert results_lib.summarize(runs, "peak_pss_mib") == (700, 700, 700)
    assert results_lib.summarize(runs, "gflops") is None


@pytest.mark.parametrize(
    ("accuracy", "is_void"),
    [(0.9019, False), (0.89, False), (0.914, False), (0.889, True), (0.915, True)],
)
def test_a_row_is_void_if_its_accuracy_is_not_the_tutorials(accuracy, is_void):
    runs = [*runs_of(1), *runs_of(1, accuracy=accuracy)]
    assert bool(results_lib.void_reason(runs)) is is_void


def test_a_row_is_void_if_a_run_failed():
    assert results_lib.void_reason([*runs_of(1), {"error": "RuntimeError: …"}]) == "failed"
    assert results_lib.void_reason(runs_of(1, accuracy=float("nan")))
    assert results_lib.void_reason([{"wall_s": 1.0}]) is None  # A limit, which trains nothing.


def test_a_ratio_is_that_of_the_medians_or_none_if_a_row_is_void():
    runs = {"ours": runs_of(9, 2, 4), "a": runs_of(1, 2, 7), "b": runs_of(1, accuracy=0.1)}
    assert results_lib.ratio(runs, "ours", "a", "steps_per_second") == 2
    assert results_lib.ratio(runs, "ours", "b", "steps_per_second") is None
    assert results_lib.ratio(runs, "ours", "missing", "steps_per_second") is None


def test_every_bar_is_computed_and_compared():
    runs = {
        "ours": [*runs_of(2000), {"peak_pss_mib": 500.0}],
        "tf1": [*runs_of(800, wall_s=8.0)],
        "torch": [*runs_of(1000, wall_s=5.0), {"peak_pss_mib": 400.0}],
        "products": [{"steps_per_second": 1500}],
        "products-1-core": [{"steps_per_second": 2500}],
        "import": [{"wall_s": 1.0}],
        "loop": [{"ratio": 0.97}],
    }
    # The products are those of the faster number of cores.
    values = [bar.value(runs, "ours") for bar in results_lib.BARS]
    assert values == pytest.approx([2.5, 2, 0.8, 0.5, 0.8, 4, 0.97, 1.25])
    met = [bar.is_met(x) for bar, x in zip(results_lib.BARS, values, strict=True)]
    assert met == [True, True, True, True, True, False, True, True]
    table = report.bars_table(runs)
    assert "4 **missed**" in table
    assert "0.97 met" in table


def test_the_report_marks_a_void_row_and_replaces_the_sections(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{REPORTED}after\n")
    runs = {"ours": runs_of(2000, 2100), "tf1": runs_of(800, accuracy=0.5)}
    titles = {name: c.title for name, c in compare.CONTESTANTS.items()}
    report.write({"machine": {"cores": "2"}, "runs": runs}, path, titles)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "2,050 (2,000 to 2,100)" in text
    assert "void: test accuracy 0.5000" in text
    assert text.count("old") == 3  # The CNN's section, and those of other reports.
    assert (tmp_path / "images" / "compare.png").stat().st_size > 0
    once = text
    report.write({"machine": {"cores": "2"}, "runs": runs}, path, titles)
    assert path.read_text() == once


def test_the_cnns_contestants_have_a_section_of_their_own(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(REPORTED)
    runs = {
        "ours-cnn": runs_of(45, accuracy=0.99, job="cnn"),
        "torch-cnn": runs_of(36, accuracy=0.988, job="cnn"),
        "keras-cnn": runs_of(20, accuracy=0.9, job="cnn"),
    }
    titles = {name: c.title for name, c in compare.CONTESTANTS.items()}
    report.write({"machine": {"cores": "2"}, "runs": runs}, path, titles)
    text = path.read_text()
    assert "| PyTorch, eager | 0.9880 (0.9880 to 0.9880) | 36.0 (36.0 to 36.0) | 1.25 |" in text
    assert "void: test accuracy 0.9000" in text
    assert text.count("old") == 5  # The other sections.


def test_a_document_without_the_section_is_not_changed(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text("nothing here\n")
    with pytest.raises(ValueError, match="has 0 sections"):
        document.replace_section(path, "growth", "x")
    assert path.read_text() == "nothing here\n"


def test_the_stopwatch_excludes_the_first_lap_and_the_time_before_a_restart():
    times = [0, 50, 51, 60, 60.5]  # Created; lap; lap; restart; lap.
    with mock.patch("time.perf_counter", side_effect=times):
        stopwatch = Stopwatch(steps_per_lap=100)
        assert stopwatch.lap() == 50
        assert stopwatch.lap() == 1
        stopwatch.restart()
        assert stopwatch.lap() == 0.5
    assert json.loads(stopwatch.result(0.9)) == {
        "test_accuracy": 0.9,
        "steps_per_second": pytest.approx(100 / 0.75),
    }


@needs_proc
def test_a_command_is_measured_until_its_last_process_ends(tmp_path):
    child = f"import time; time.sleep(0.3); open({str(tmp_path / 'done')!r}, 'w')"
    parent = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    )
    measured = process.run([sys.executable, "-c", f"print('out'); {parent}"])
    assert (tmp_path / "done").exists()
    assert measured.stdout == "out\n"
    assert measured.peak_pss_mib is None


@needs_proc
def test_memory_is_the_sum_over_all_processes():
    child = "x = b'1' * 2**26; import time; time.sleep(0.3)"
    parent = (
        f"import subprocess, sys; x = b'1' * 2**26; "
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    measured = process.run([sys.executable, "-c", parent], sample_memory=True, period_s=0.01)
    assert measured.peak_pss_mib > 128 > measured.peak_rss_mib > 64


@needs_proc
def test_the_error_of_a_failed_command_contains_its_stderr():
    with pytest.raises(RuntimeError, match="exit code 3\nreason"):
        process.run(
            [sys.executable, "-c", "import sys; print('reason', file=sys.stderr); exit(3)"]
        )


def test_the_data_is_divided_as_in_the_tutorial(tmp_path):
    arrays = {}
    for split, count in (("train", 5100), ("test", 10)):
        for file, shape, header in zip(
            compare._FILES[split], ((count, 28, 28), (count,)), (16, 8), strict=True
        ):
            array = np.zeros(shape, np.uint8)
            array.T[...] = np.arange(count) % 251
            arrays[split, array.ndim] = array
            with gzip.open(tmp_path / file, "wb", compresslevel=1) as out:
                out.write(bytes(header) + array.tobytes())
    compare.prepare_data(tmp_path, tmp_path / "mnist.npz")
    with np.load(tmp_path / "mnist.npz") as prepared:
        for kind, ndim in (("image", 3), ("label", 1)):
            np.testing.assert_array_equal(
                prepared[f"validation_{kind}"], arrays["train", ndim][:5000]
            )
            np.testing.assert_array_equal(
                prepared[f"train_{kind}"], arrays["train", ndim][5000:]
            )
            np.testing.assert_array_equal(prepared[f"test_{kind}"], arrays["test", ndim])


def test_the_flops_of_a_step_are_those_of_its_eight_products():
    with mock.patch("numpy.matmul") as matmul:
        limits.step_products(100, TUTORIAL)()
    shapes = [(*a.shape, b.shape[1]) for a, b in (call.args for call in matmul.mock_calls)]
    assert len(shapes) == 8
    assert step_cost.flops(100, TUTORIAL) == sum(2 * n * k * m for n, k, m in shapes)


def test_the_bytes_of_a_step_are_those_of_images_parameters_and_activations():
    # One layer: 5 images of 3 bytes; 3 * 2 + 2 parameters and 5 * 2 activations, twice each.
    assert step_cost.bytes_moved(5, (3, 2)) == 15 + 8 * 8 + 8 * 10


def test_the_limits_are_measured():
    command = [sys.executable, "-m", "benchmarks.limits"]
    command += ["--steps", "1", "--repeats", "1", "--product-size", "64"]
    output = subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT)
    figures = json.loads(output.stdout)
    assert set(figures) == {"steps_per_second", "gflops"}
    assert all(value > 0 for value in figures.values())


def test_growth_is_measured_and_reported(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(REPORTED)
    results = growth.measure(
        rounds=1,
        seconds=1e-3,
        batch_sizes=(8,),
        widths=(),
        steps_per_call=(),
        examples=(),
        num_examples=1000,
        product_size=64,
        array_bytes=1 << 12,
    )
    (point,) = results["batch_size"]
    assert point["seconds_per_step"] > 0
    results |= {"width": [point], "steps_per_call": [point | {"value": 1}]}
    results["examples"] = [{"value": 1000, "peak_mib": 300.0}]
    content = growth.report(json.loads(json.dumps(results)), tmp_path)
    assert content.count("\n| 1 |") == 1
    assert (tmp_path / "images" / "roofline.png").stat().st_size > 0


def test_without_a_gpu_one_line_is_printed(capsys):
    if gpu.jax.devices()[0].platform == "gpu":
        pytest.skip("there is a GPU")
    with mock.patch.object(sys, "argv", ["gpu"]):
        gpu.main()
    assert capsys.readouterr().out.startswith("no GPU: jax ")


def test_only_kernels_on_the_gpus_streams_are_counted():
    def names(kind, pid, tid, name):
        return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}

    def event(pid, tid, duration):
        return {"ph": "X", "name": "x", "pid": pid, "tid": tid, "ts": 0, "dur": duration}

    events = [
        names("process_name", 1, 0, "/device:GPU:0"),
        names("process_name", 2, 0, "/host:CPU"),
        names("thread_name", 1, 14, "Stream #14(Compute)"),
        names("thread_name", 1, 15, "XLA Ops"),  # The same durations again, by operation.
        names("thread_name", 2, 14, "python"),
        event(1, 14, 3),
        event(1, 14, 4.5),
        event(1, 15, 7.5),
        event(2, 14, 100),
    ]
    assert gpu.kernel_time(events) == (2, pytest.approx(7.5e-6))


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "benchmarks" / "contestants").glob("*.py")),
    ids=lambda path: path.stem,
)
def test_contestants_are_valid_programs(path):
    compile(path.read_text(), str(path), "exec")
