"""Errors of libraries in one line; errors of writing name the place."""

from pathlib import Path

import pytest

from mnist_jax.runtime import errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "/a/b"),
            "No such file or directory",
        ),
        (ValueError("\n  first \nsecond"), "first "),
        (ValueError(), "ValueError"),
        (ValueError("full [tensorstore_spec='{}'] [os_error_code='28']"), "full"),
        (ValueError("x" * 300), "x" * 300),
        (ValueError("a" * 120 + "b" * 300 + "c" * 160), f"{'a' * 120} ... {'c' * 160}"),
    ],
)
def test_first_line(error: Exception, line: str):
    assert errors.first_line(error) == line


def test_a_write_that_fails_names_the_place(tmp_path: Path):
    with (
        pytest.raises(
            errors.WriteError, match=r"^place: can't be written to \(Is a directory\)"
        ),
        errors.writing_to("place"),
    ):
        tmp_path.write_text("")
    with pytest.raises(KeyError), errors.writing_to("place"):
        raise KeyError
    with pytest.raises(errors.WriteError), errors.writing_to("place", LookupError):
        raise KeyError


def test_exit_codes():
    assert errors.UserError.exit_code == errors.DatasetUnavailableError.exit_code == 2
    assert errors.WriteError.exit_code == errors.TrainingDivergedError.exit_code == 1
