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


def test_an_earlier_step_after_a_later_one_is_named_and_nothing_is_cut(tmp_path):
    write(tmp_path, [10, 30, 20])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for first_step in (0, 20, 30):
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 3 has an earlier step"):
            Journal(tmp_path, first_step)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_lines_that_a_checkpoint_needs_are_known_by_their_digest(tmp_path):
    journal = Journal(tmp_path, first_step=0)
    journal.write(10, "fake", {"train/loss": 1.5})
    sha256 = journal.flush()
    journal.write(20, "fake", {"train/loss": 1.0})
    journal.close()
    path = tmp_path / "metrics.jsonl"
    good = path.read_text()
    for text in ("", good[:20], good.replace("1.5", "1.6"), good.splitlines()[1] + "\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"lines up to step 10 are missing or changed"):
            Journal(tmp_path, 10, sha256)
        assert path.read_text() == text
    path.write_text(good)
    resumed = Journal(tmp_path, 10, sha256)
    assert resumed.flush() == sha256
    resumed.close()
