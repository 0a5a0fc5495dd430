"""What a run prints and writes."""

import contextlib
import io
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from mnist_jax.reporting import figures, graph
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import create_fake_config
from tests.workdirs import curves, journal

STEP_LINE = re.compile(r"Step (\d+): loss = (\d+\.\d\d) \([\d,]+ steps/s\)")
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
    train = {"train/loss", "train/learning_rate", "train/steps_per_second"}
    splits = {f"{split}/accuracy" for split in ("train", "validation", "test")}
    splits |= {"train/eval_loss", "validation/loss", "test/loss"}
    written = curves(workdir)
    assert train | splits == set(written)
    for tag, points in written.items():
        expected = [(line["step"], line[tag]) for line in lines if tag in line]
        assert [step for step, _ in points] == ([10, 20, 30, 40] if tag in train else [20, 40])
        np.testing.assert_allclose(points, expected, rtol=1e-6)
    assert {value for _, value in written["train/learning_rate"]} == {np.float32(0.01)}


def test_tensorboard_shows_hparams_config_and_parameters(finished):
    workdir, *_ = finished
    events = EventAccumulator(str(workdir))
    events.Reload()
    (session,) = events.PluginTagToContent("hparams").values()
    hparams = plugin_data_pb2.HParamsPluginData.FromString(session).session_start_info.hparams
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
    monkeypatch.setattr(figures, "draw", fail)  # In this process: see the next line.
    monkeypatch.setattr("mnist_jax.reporting.reporter.FigureWorker", FigureWorkerInProcess)
    fake_config.figures = True
    assert int(train_and_evaluate(fake_config, tmp_path).step) == 40
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "WARNING: no graph for TensorBoard: can't be drawn"
    assert lines[1].startswith("WARNING: figures are missing (can't be drawn); draw them by ")
    assert len(lines) == 2


class FigureWorkerInProcess:
    def __init__(self, workdir):
        self._error = None

    def draw(self, **arguments):
        try:
            figures.draw(**arguments)
        except TypeError as error:
            self._error = str(error)

    def close(self, *, wait):
        return self._error
