"""A run that is killed repeatedly ends with the bits of an uninterrupted run."""

from tests.faults import kill


def test_killed_runs_end_with_the_same_bits(tmp_path):
    configs = ["keep 1, a save every 4 steps"]
    report = kill.kill_runs(4, seed=3, folder=tmp_path, configs=configs)
    assert report.differences == []
    assert report.kills.total() == 4
