"""No value of a flag or variable leads to a traceback, or to more than one line."""

from pathlib import Path

import pytest

from tests.faults import fuzz


def test_hostile_values(tmp_path: Path):
    report = fuzz.check(fuzz.choose_cases(200, seed=3), tmp_path)
    assert report.wrong == []
    assert report.exit_codes.total() == 200


@pytest.mark.long
def test_hostile_values_by_the_real_commands(tmp_path: Path):
    report = fuzz.check(fuzz.choose_cases(40, seed=4, real=True), tmp_path, real=True)
    assert report.wrong == []
    assert report.exit_codes.total() == 40
