"""What a valid config is, and which of its fields a run may change on its way."""

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mnist_jax.runtime.errors import UserError


class _Field(NamedTuple):
    type: type
    is_valid: Callable[[Any], bool]
    meaning: str
    may_change: bool = False


def _one_of(*values: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in values, "one of " + ", ".join(map(repr, values))


def _integer(low: int, high: int = 2**31 - 1) -> tuple[Callable[[Any], bool], str]:
    # Counts and indices are int32 on the device.
    return lambda value: low <= value <= high, f"an integer from {low} to {high}"


def _number(text: str, low: float, high: float, *, or_low: bool) -> tuple[Any, str]:
    def is_valid(value: float) -> bool:
        return (low <= value if or_low else low < value) and value < high

    return is_valid, text


def _is_place(value: str) -> bool:
    try:
        Path(value).expanduser()
    except RuntimeError:  # `~somebody`, who is not there.
        return False
    return "\0" not in value


_DATASET_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_MAX_WIDTH = 2**16
_MAX_FLOAT32 = 2.0**127
_MAX_EXAMPLES_PER_CALL = 2**27  # Their indices are made on the host: half a gigabyte.

_FIELDS: dict[str, _Field] = {
    "seed": _Field(int, *_integer(0, 2**32 - 1)),
    "dataset": _Field(
        str,
        lambda v: bool(_DATASET_NAME.fullmatch(v)),
        "a dataset's name, like 'mnist' or 'emnist/balanced'",
    ),
    "fallback_dataset": _Field(str, *_one_of("", "mnist_5k", "fake"), may_change=True),
    "data_dir": _Field(str, _is_place, "a folder, or ''", may_change=True),
    "manual_dir": _Field(str, _is_place, "a folder, or ''", may_change=True),
    "hidden_sizes": _Field(
        tuple,
        lambda v: all(type(n) is int and 1 <= n <= _MAX_WIDTH for n in v),
        f"a tuple of integers from 1 to {_MAX_WIDTH}, like (128, 32)",
    ),
    "optimizer": _Field(str, *_one_of("sgd", "adam", "adamw")),
    "learning_rate": _Field(
        float, *_number("a finite number above 0", 0.0, _MAX_FLOAT32, or_low=False)
    ),
    "schedule": _Field(str, *_one_of("constant", "cosine")),
    "warmup_steps": _Field(int, *_integer(0)),
    "momentum": _Field(float, *_number("a number from 0 to below 1", 0.0, 1.0, or_low=True)),
    "weight_decay": _Field(
        float, *_number("a number from 0 to below 1", 0.0, 1.0, or_low=True)
    ),
    "grad_clip_norm": _Field(
        float, *_number("a finite number, 0 or more", 0.0, _MAX_FLOAT32, or_low=True)
    ),
    "batch_size": _Field(int, *_integer(1)),
    "num_train_steps": _Field(int, *_integer(1), may_change=True),
    "steps_per_call": _Field(int, *_integer(1), may_change=True),
    "log_every_steps": _Field(int, *_integer(1), may_change=True),
    "eval_every_steps": _Field(int, *_integer(1), may_change=True),
    "eval_batch_size": _Field(int, *_integer(1, 2**16), may_change=True),
    "figures": _Field(bool, lambda v: True, "True or False", may_change=True),
    "log_histograms": _Field(bool, lambda v: True, "True or False", may_change=True),
    "profile_steps": _Field(
        tuple,
        lambda v: (
            v == () or (len(v) == 2 and all(type(n) is int for n in v) and 1 <= v[0] <= v[1])
        ),
        "the first and the last step to trace, like (200, 210), or ()",
        may_change=True,
    ),
    "checkpoint_every_steps": _Field(int, *_integer(1), may_change=True),
    "keep_checkpoints": _Field(int, *_integer(1), may_change=True),
}


def validate(config: ConfigDict) -> None:
    """Checks every field: that it is there, its type, its range, and combinations.

    Raises:
      UserError: Names the first field that is wrong, its value, and what it may be.
    """
    for name in config:
        if name not in _FIELDS:
            raise unknown_field(name)
    for name, field in _FIELDS.items():
        if name not in config:
            raise UserError(f"config.{name}: missing; derive from configs/default.py")
        value = config[name]
        # bool is an int to Python, and 1 a float to whoever writes it, but not the reverse.
        numeric = field.type is float and type(value) is int
        if not (type(value) is field.type or numeric) or not field.is_valid(value):
            raise UserError(f"config.{name}: {value!r} is not {field.meaning}")
    _validate_combinations(config)


def unknown_field(name: str) -> UserError:
    """Returns the error that names the nearest field."""
    near = difflib.get_close_matches(name, _FIELDS, n=1)
    hint = f"did you mean config.{near[0]}?" if near else "see configs/default.py"
    return UserError(f"config.{name}: there is no such field; {hint}")


def _validate_combinations(config: ConfigDict) -> None:
    if config.steps_per_call * config.batch_size > _MAX_EXAMPLES_PER_CALL:
        raise UserError(
            f"config.steps_per_call: {config.steps_per_call} steps of {config.batch_size} "
            f"examples are more than the {_MAX_EXAMPLES_PER_CALL} that one call may see; "
            "lower it"
        )
    if config.schedule == "cosine" and config.warmup_steps >= config.num_train_steps:
        raise UserError(
            f"config.warmup_steps: {config.warmup_steps} leaves nothing of the "
            f"{config.num_train_steps} num_train_steps to the cosine; lower it"
        )
    if config.profile_steps and config.profile_steps[1] > config.num_train_steps:
        raise UserError(
            f"config.profile_steps: {config.profile_steps} ends after the "
            f"{config.num_train_steps} num_train_steps; lower it"
        )
    if config.momentum and config.optimizer != "sgd":
        raise UserError(
            f"config.momentum: {config.momentum} is SGD's, the optimizer is "
            f"{config.optimizer}; set it to 0"
        )
    if config.weight_decay and config.optimizer == "adam":
        raise UserError(
            f"config.weight_decay: {config.weight_decay}, but adam has none; set it to 0 or "
            "use --config.optimizer=adamw"
        )


def check_batch_size(config: ConfigDict, num_train_examples: int) -> None:
    """Raises UserError where a batch would hold an example twice."""
    if config.batch_size > num_train_examples:
        raise UserError(
            f"config.batch_size: {config.batch_size} is more than the {num_train_examples} "
            f"training examples of {config.dataset}; lower it"
        )


def check_resumable(config: ConfigDict, saved: ConfigDict, workdir: str) -> None:
    """Raises UserError unless the run in `workdir`, saved with `saved`, may go on so.

    What decides the numbers (data, model, optimizer, seed) must be as it was; lengths,
    intervals and places may change.
    """
    differences = [
        f"config.{name}: {config[name]!r} here, {saved[name]!r} there"
        for name, field in _FIELDS.items()
        if not field.may_change and config[name] != saved[name]
    ]
    if differences:
        raise UserError(
            f"{workdir}: its run has another config ({'; '.join(differences)}); give the same "
            "values, or another --workdir"
        )


def hyperparameters(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that decide the results: those a run may not change, and its length.

    Tuples become text, as TensorBoard's HParams tab wants them.
    """
    names = [name for name, field in _FIELDS.items() if not field.may_change]
    values = {name: config[name] for name in (*names, "num_train_steps")}
    return {n: str(v) if isinstance(v, tuple) else v for n, v in values.items()}


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as JSON's types; tuples become lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.items()
    }


def from_json(fields: Mapping[str, Any]) -> ConfigDict:
    """Returns the config that `to_json` made.

    Raises:
      UserError: It is not a valid config.
    """
    config = ConfigDict(
        {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
    )
    validate(config)
    return config.lock()
