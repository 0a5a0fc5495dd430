"""The networks of LeCun's table: their configs, their training, and the report."""

import json
import re
import shutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from benchmarks import accuracy, accuracy_report
from mnist_jax import train_loop
from mnist_jax.configs import lecun
from mnist_jax.runtime import config as config_lib
from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"

# Stands for train.py. In a new workdir it has the benchmark stopped, and waits to be stopped.
PROGRAM = """
import os, shutil, signal, sys
from pathlib import Path

workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
if workdir.exists():
    shutil.copy(Path(__file__).parent / "report.json", workdir / "results.json")
else:
    workdir.mkdir()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getppid(), signal.SIGTERM)
    sys.exit(128 + signal.sigwait([signal.SIGTERM]))
"""


def report_of(run: str, num_correct: int | list[int], **committee: int) -> dict:
    config = lecun.get_config(run)
    split = {"num_examples": 10_000, "num_correct": num_correct, **committee}
    return {
        "step": config.num_train_steps,
        "splits": {"train": {"num_examples": 55_000}, "validation": split, "test": split},
        "environment": {"jax": "0.10.2", "devices": "2 x cpu", "commit": "abc"},
        "config": json.loads(config.to_json()),
    }


@pytest.mark.parametrize("row", lecun.ROWS)
def test_the_config_of_a_row_is_valid_and_never_trains_on_other_data(row: str):
    config = lecun.get_config(row)
    config_lib.validate(config)
    assert (config.dataset, config.fallback_dataset) == ("mnist", "")


def test_a_row_that_does_not_exist_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match=r"'301' is no row; .* 300, .* deep-elastic"):
        lecun.get_config("301")


def test_every_run_is_reported():
    runs = {row.run for row in accuracy_report.ROWS} | set(accuracy_report.COSTS.values())
    assert runs == set(lecun.ROWS)


def test_the_documents_are_what_the_results_generate(tmp_path: Path):
    pages = [ROOT / "docs" / "accuracy.md", ROOT / "README.md"]
    copies = [Path(shutil.copy(page, tmp_path)) for page in pages]
    accuracy_report.write(accuracy.read(RESULTS), *copies)
    for page, copy in zip(pages, copies, strict=True):
        assert copy.read_text() == page.read_text()
    assert (tmp_path / "images" / "accuracy.png").stat().st_size > 0


def test_the_results_are_those_of_the_configs():
    for run, entry in accuracy.read(RESULTS).items():
        assert entry["config"] == accuracy.hyperparameters(lecun.get_config(run)), run


def test_errors_are_in_percent_with_the_sample_standard_deviation():
    report = report_of("800-elastic", [9940, 9930], committee_num_correct=9962)
    entry = accuracy.summarize(report, [60.0, 30.5])
    assert entry["test"] == {
        "mean": 0.65,
        "std": pytest.approx(0.1 / 2**0.5, abs=1e-6),
        "seeds": [0.6, 0.7],
        "committee": 0.38,
    }
    assert (entry["wall_s"], entry["attempts"], entry["commit"]) == (90.5, 2, "abc")
    assert (entry["num_params"], round(entry["epochs"])) == (636_010, 150)
    lines = accuracy_report.results_table({"800-elastic": entry}).splitlines()
    assert [line for line in lines if "0.65 ± 0.07 | 2 " in line and "**missed**" in line]
    assert [line for line in lines if "| 0.38 | 2 " in line and "| met |" in line]


def test_the_time_to_an_accuracy_is_that_of_all_seeds_and_of_each():
    entry = accuracy.summarize(report_of("cnn-99", [9901, 9899]), [60.0, 30.0])
    line = "| 99 | `cnn-99` | 99.00 ± 0.01 | 2 | 1.5 | 0.75 | 2 x cpu |"
    assert line in accuracy_report.cost_table({"cnn-99": entry})
    entry = accuracy.summarize(report_of("cnn-99", [9899, 9897]), [60.0])
    assert "98.98 ± 0.01, **missed** |" in accuracy_report.cost_table({"cnn-99": entry})


def test_one_seed_has_neither_a_deviation_nor_a_committee():
    entry = accuracy.summarize(report_of("deep-elastic", 9955), [1.0])
    assert entry["test"] == {"mean": 0.45, "std": None, "seeds": [0.45], "committee": None}
    assert "| 0.45 | 1 |" in accuracy_report.results_table({"deep-elastic": entry})


def test_the_results_of_a_run_are_read(fake_config: ConfigDict, tmp_path: Path):
    fake_config.num_seeds = 2
    train_loop.train_and_evaluate(fake_config, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "results.json").read_text())
    errors = accuracy.summarize(report, [1.0])["validation"]
    wrong = [100 * (1 - value) for value in report["splits"]["validation"]["accuracy"]]
    assert errors["seeds"] == pytest.approx(wrong)
    assert errors["committee"] is not None


def test_a_stopped_row_resumes_and_is_recorded_once(tmp_path: Path, capsys):
    program, results, folder = (
        tmp_path / "train.py",
        tmp_path / "results.json",
        tmp_path / "runs",
    )
    program.write_text(PROGRAM)
    (tmp_path / "report.json").write_text(json.dumps(report_of("300", [9850] * 5)))
    with pytest.raises(SystemExit) as stopped:
        accuracy.measure("300", results, folder, train=program)
    assert stopped.value.code == 143  # The program's: the signal was passed on.
    assert accuracy.read(results) == {}

    results.write_text('{"800": "another row"}')
    accuracy.measure("300", results, folder, train=program)
    recorded = accuracy.read(results)
    assert recorded["800"] == "another row"
    assert recorded["300"]["test"]["mean"] == 1.5
    assert recorded["300"]["attempts"] == 2
    command = "python train.py --config configs/lecun.py:300"
    assert re.fullmatch(rf"JAX_NUM_CPU_DEVICES=\d+ {command}", recorded["300"]["command"])

    report = report_of("300", [9850] * 5) | {"step": 1}
    (tmp_path / "report.json").write_text(json.dumps(report))
    stale = recorded | {"300": recorded["300"] | {"config": {}}}
    results.write_text(json.dumps(stale))
    with pytest.raises(SystemExit, match="a run of another config"):
        accuracy.measure("300", results, folder, train=program)
    assert accuracy.read(results) == stale

    results.write_text(json.dumps(recorded))
    program.unlink()
    accuracy.measure("300", results, folder, train=program)
    assert accuracy.read(results) == recorded
    assert "to train it again" in capsys.readouterr().out
