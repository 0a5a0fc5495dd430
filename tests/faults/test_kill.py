"""A run that is killed, again and again, ends with the bits of one that is not."""

from tests.faults import kill


def test_killed_runs_end_with_the_same_bits(tmp_path):
    report = kill.kill_runs(4, seed=3, folder=tmp_path)
    assert report.differences == []
    assert report.kills.total() == 4
