import pytest

from mnist_jax.reporting.journal import Journal, read_journal
from mnist_jax.runtime.errors import UserError


def write(workdir, steps):
    journal = Journal(
        workdir, first_step=max(steps) if (workdir / "metrics.jsonl").exists() else 0
    )
    for step in steps:
        journal.write(step, "fake", {"train/loss": step / 10})
    journal.close()


def test_a_resumed_run_writes_each_line_once(tmp_path):
    write(tmp_path, [10, 20, 30])
    journal = Journal(tmp_path, first_step=20)
    assert [line["step"] for line in journal.lines] == [10, 20]
    journal.write(30, "fake", {"train/loss": 3.0})
    journal.close()
    lines = read_journal(tmp_path, last_step=100)
    assert lines == [
        {"step": step, "dataset": "fake", "train/loss": step / 10} for step in (10, 20, 30)
    ]
    assert read_journal(tmp_path, last_step=20) == lines[:2]


def test_an_incomplete_last_line_is_removed(tmp_path):
    write(tmp_path, [10])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "trai')
    Journal(tmp_path, first_step=20).close()
    assert (tmp_path / "metrics.jsonl").read_text().endswith("1.0}\n")


def test_without_a_journal_there_are_no_lines(tmp_path):
    assert read_journal(tmp_path, last_step=1) == []


@pytest.mark.parametrize("text", ["not json", "[]", '{"loss": 1}', '{"step": "x"}', "\xff"])
def test_a_damaged_line_is_named_and_nothing_is_cut(tmp_path, text):
    write(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    content = path.read_text(encoding="latin-1").replace("\n", f"\n{text}\n", 1)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged"):
        Journal(tmp_path, first_step=20)
    assert path.read_text(encoding="latin-1") == content
