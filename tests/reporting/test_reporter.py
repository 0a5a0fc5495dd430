"""What a run prints and writes."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios
import threading

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from mnist_jax.reporting import figures, graph
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import create_fake_config
from tests.workdirs import curves, journal

STEP_LINE = re.compile(r"Step (\d+): loss = (\d+\.\d\d) \([\d,]+ steps/s\)")
SUB_RUNS = ("train", "validation", "test")
BATCH = ("loss", "learning_rate", "steps_per_second")
SPLITS = {"Training": 2000, "Validation": 500, "Test": 500}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its workdir, its state, and the lines it printed."""
    workdir = tmp_path_factory.mktemp("finished") / "new" / "run"
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        state = train_and_evaluate(create_fake_config(), workdir)
    return workdir, state, stdout.getvalue().splitlines()


def test_it_prints_the_tutorials_lines(finished):
    workdir, _, lines = finished
    assert str(workdir) in lines[0]
    assert "fake" in lines[0]
    steps = [int(match[1]) for line in lines if (match := STEP_LINE.fullmatch(line))]
    assert steps == [10, 20, 30, 40]
    for step in (20, 40):
        start = lines.index(next(x for x in lines if x.startswith(f"Step {step}:"))) + 1
        block = lines[start : start + 6]
        for i, (title, count) in enumerate(SPLITS.items()):
            assert block[2 * i] == f"{title} Data Eval: [fake]"
            result = re.fullmatch(
                rf"  Num examples: {count}  Num correct: (\d+)  Precision @ 1: (0\.\d{{4}})",
                block[2 * i + 1],
            )
            assert result[2] == f"{int(result[1]) / count:.4f}"


def test_the_journal_and_tensorboard_hold_the_same_numbers(finished):
    workdir, *_ = finished
    lines = journal(workdir)
    assert {line["dataset"] for line in lines} == {"fake"}
    names = {f"batch/{name}": f"train/batch/{name}" for name in BATCH}
    for split in SUB_RUNS:  # The same tag in each, so that one chart shows the three curves.
        names |= {f"{split}/{name}": f"{split}/all/{name}" for name in ("accuracy", "loss")}
    written = curves(workdir)
    assert {tag for line in lines for tag in line} == {"step", "dataset", *names}
    assert set(names.values()) == set(written)
    for tag, name in names.items():
        expected = [(line["step"], line[tag]) for line in lines if tag in line]
        steps = [10, 20, 30, 40] if tag.startswith("batch") else [0, 20, 40]
        assert [step for step, _ in expected] == steps
        if tag.startswith(("train", "test")):  # Not for TensorBoard, which smooths curves.
            expected, steps = expected[1:], steps[1:]
        assert [step for step, _ in written[name]] == steps
        np.testing.assert_allclose(written[name], expected, rtol=1e-6)
    assert {value for _, value in written["train/batch/learning_rate"]} == {np.float32(0.01)}


def test_results_json_has_the_results_and_what_they_were_made_with(finished):
    workdir, *_ = finished
    report = json.loads((workdir / "results.json").read_text())
    assert report.keys() == {"step", "dataset", "splits", "environment", "config"}
    assert (report["step"], report["dataset"]) == (40, "fake")
    last = journal(workdir)[-1]
    for split, (_, count) in zip(SUB_RUNS, SPLITS.items(), strict=True):
        metrics = report["splits"][split]
        assert metrics["num_examples"] == count
        assert metrics["num_correct"] == round(count * last[f"{split}/accuracy"])
        assert (metrics["accuracy"], metrics["loss"]) == (
            last[f"{split}/accuracy"],
            last[f"{split}/loss"],
        )
    assert {"python", "jax", "devices"} <= report["environment"].keys()
    assert report["config"]["hidden_sizes"] == [16]


def test_it_prints_what_to_do_next(finished):
    workdir, _, lines = finished
    assert lines[-4:] == [
        f"Complete: {workdir}/results.json contains the results. Next:",
        f"  tensorboard --logdir {workdir}",
        f"  mnist-jax evaluate --workdir {workdir}",
        f"  mnist-jax demo --workdir {workdir}",
    ]


def test_a_terminal_that_gets_narrower_gets_a_narrower_bar(
    fake_config, tmp_path, monkeypatch, after_train_steps
):
    parent, child = pty.openpty()
    resize(child, 90)
    output = bytearray()
    reader = threading.Thread(target=read_all, args=(parent, output))
    reader.start()
    after_train_steps(lambda state, metrics: resize(child, 50) or (state, metrics))
    fake_config.num_train_steps = 20
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        train_and_evaluate(fake_config, tmp_path)
    reader.join()
    shown = [text.rstrip() for text in re.split(r"[\r\n]", output.decode())]
    widths = [len(text) for text in shown if "steps/s" in text]
    assert 80 < widths[0] <= 90
    assert 40 < widths[-1] <= 50


def resize(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def read_all(descriptor, output):
    with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed.
        while part := os.read(descriptor, 65536):
            output += part
    os.close(descriptor)


def test_tensorboard_shows_hparams_config_and_parameters(finished):
    workdir, *_ = finished
    events = EventAccumulator(str(workdir))
    events.Reload()
    (session,) = events.PluginTagToContent("hparams").values()
    info = plugin_data_pb2.HParamsPluginData.FromString(session).session_start_info
    assert info.group_name == "new/run"
    hparams = info.hparams
    assert hparams["learning_rate"].number_value == 0.01
    assert hparams["dataset"].string_value == "fake"
    assert hparams["hidden_sizes"].string_value == "(16,)"
    (config,) = events.Tensors("config")
    assert b"| batch_size | `30` |" in config.tensor_proto.string_val[0]
    (parameters,) = events.Tensors("parameters")
    assert b"hidden1/kernel" in parameters.tensor_proto.string_val[0]


def test_a_graph_or_a_figure_that_cannot_be_drawn_is_a_warning(
    fake_config, tmp_path, monkeypatch, capfd
):
    def fail(*args, **kwargs):
        raise TypeError("can't be drawn")

    monkeypatch.setattr(graph, "write_graph", fail)
    monkeypatch.setattr(figures, "draw", fail)
    fake_config.figures = True
    assert int(train_and_evaluate(fake_config, tmp_path).step) == 40
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "WARNING: no graph for TensorBoard: can't be drawn"
    assert lines[1].startswith("WARNING: figures are missing (can't be drawn); draw them by ")
    assert len(lines) == 2
