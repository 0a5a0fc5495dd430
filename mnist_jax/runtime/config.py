"""Validation of configs, and which fields may change when a run is resumed."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import itertools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mnist_jax.configs import default
from mnist_jax.runtime import own_code
from mnist_jax.runtime.errors import UserError, refusing

_MAX_INT32 = 2**31 - 1  # Steps, counts and indices are int32 on the device.
_MAX_FLOAT32 = 2.0**127
_MAX_WIDTH = 2**16
_DATASET_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")

# The fields, their types and their defaults.
_DEFAULTS = default.get_config()

# These don't affect the parameters after a step, so they may change when a run is resumed.
_CHANGEABLE_FIELDS = (
    "examples",
    "fallback_dataset",
    "data_dir",
    "manual_dir",
    "num_train_steps",
    "steps_per_call",
    "log_every_steps",
    "eval_every_steps",
    "eval_batch_size",
    "figures",
    "log_histograms",
    "profile_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
)


# Whether a value of the field's type is valid (or an error), and what is.
_Constraint = tuple[Callable[[Any], object], str]


def _integer(low: int, high: int = _MAX_INT32) -> _Constraint:
    return lambda v: low <= v <= high, f"an integer from {low} to {high}"


def _choice(*values: str) -> _Constraint:
    return lambda v: v in values, "one of " + ", ".join(map(repr, values))


def _are_integers(values: tuple[Any, ...], high: int = _MAX_INT32) -> bool:
    return all(type(v) is int and 1 <= v <= high for v in values)  # A bool is no integer.


def own_path(dataset: str) -> Path | None:
    """Returns the absolute path of a user's own dataset, or None if `dataset` is a name.

    A path begins with `/`, `.` or `~`, or ends with `.npz`, which no name does.
    """
    if dataset.startswith(("/", ".", "~")) or dataset.endswith(".npz"):
        return Path(os.path.normpath(Path(dataset).expanduser().absolute()))
    return None


_FRACTION: _Constraint = (lambda v: 0 <= v < 1, "a number from 0 to below 1")
_WIDTHS: _Constraint = (
    lambda v: _are_integers(v, _MAX_WIDTH),
    f"a tuple of integers from 1 to {_MAX_WIDTH}, like (128, 32)",
)
# Of fields that may not have any value of their type.
_CONSTRAINTS: dict[str, _Constraint] = {
    **{name: _integer(1) for name, value in _DEFAULTS.items() if type(value) is int},
    "seed": _integer(0, 2**32 - 1),
    "dataset": (
        lambda v: v.isprintable() and (own_path(v) or _DATASET_NAME.fullmatch(v)),
        "a dataset's name, like 'mnist', or path: './mine'",
    ),
    "image_size": (
        lambda v: len(v) in (0, 2) and _are_integers(v, _MAX_WIDTH),
        "a height and a width in pixels, like (32, 32), or ()",
    ),
    "image_background": _integer(0, 255),
    "fallback_dataset": _choice("", "mnist_5k", "fake"),
    "hidden_sizes": _WIDTHS,
    "conv_features": _WIDTHS,
    "dropout": _FRACTION,
    "dtype": _choice("float32", "bfloat16"),
    "label_smoothing": _FRACTION,
    "learning_rate": (lambda v: 0 < v < _MAX_FLOAT32, "a finite number above 0"),
    "warmup_steps": _integer(0),
    "drop_steps": (_are_integers, "a tuple of steps, like (1000, 1500)"),
    "drop_factor": (lambda v: 0 < v <= 1, "a number above 0, up to 1"),
    "trainable": (re.compile, "a regular expression over names like 'hidden1/kernel'"),
    "early_stopping_evals": _integer(0),
    "examples": _choice("auto", "device", "host"),
    "momentum": _FRACTION,
    "weight_decay": _FRACTION,
    "grad_clip_norm": (lambda v: 0 <= v < _MAX_FLOAT32, "a finite number from 0"),
    "profile_steps": (
        lambda v: not v or (len(v) == 2 and _are_integers(v) and v[0] <= v[1]),
        "the first and the last step to trace, like (200, 210), or ()",
    ),
}


def validate(config: ConfigDict) -> None:
    """Raises UserError for the first field that is missing, unknown or not valid."""
    for name in sorted(set(config) - set(_DEFAULTS)):
        matches = difflib.get_close_matches(name, list(_DEFAULTS), n=1)
        hint = f"did you mean config.{matches[0]}?" if matches else "see configs/default.py"
        raise UserError(f"config.{name}: there is no such field; {hint}")
    for name in _DEFAULTS:
        if name not in config:
            raise UserError(f"config.{name}: missing; derive from configs/default.py")
        _validate_field(config, name, _CONSTRAINTS.get(name))
    if config.seed + config.num_seeds > 2**32:
        raise _error(config, "num_seeds", "leads to seeds above 2**32 - 1; lower it or seed")
    if config.profile_steps and config.profile_steps[1] > config.num_train_steps:
        raise _error(config, "profile_steps", "ends after num_train_steps; lower it")
    if config.num_train_steps % config.accumulate_steps:
        raise _error(config, "accumulate_steps", "does not divide num_train_steps; change one")
    for name in ("image_size", "image_background"):
        if config[name] != _DEFAULTS[name] and not own_path(config.dataset):
            problem = f"applies to your own folder of images; set it to {_DEFAULTS[name]}"
            raise _error(config, name, problem)


def _validate_field(config: ConfigDict, name: str, constraint: _Constraint | None) -> None:
    value, wanted = config[name], type(_DEFAULTS[name])
    is_valid, expected = constraint or (lambda _: True, f"of type {wanted.__name__}")
    is_type = type(value) is wanted or (wanted is float and type(value) is int)
    # The errors of a pattern, and of `~user` if there is no such user.
    with contextlib.suppress(re.error, RuntimeError):
        if is_type and is_valid(value):
            return
    raise _error(config, name, f"is not {expected}")


def choose(
    config: ConfigDict,
    field: str,
    table: Mapping[str, Any],
    *,
    own: bool = False,
    is_saved: bool = False,
) -> Any:
    """Returns what a field chooses from a table of functions and classes.

    Their parameters have the names of the config's fields that they use. With `own`, a choice
    may also be `FILE.py:NAME` or `MODULE:NAME`. What a saved config ignores is not refused.

    Raises:
      UserError: There is no such choice, or a field is set that this choice ignores.
    """
    choice = config[field]
    if own and ":" in choice:
        table = {**table, choice: own_code.load(f"config.{field}", choice)}
    if choice not in table:
        others = ", or FILE.py:NAME" if own else ""
        raise _error(config, field, f"is none of {', '.join(table)}{others}")
    if not is_saved:
        refuse_ignored(config, table, table[choice], f"config.{field}={choice}")
    return table[choice]


def refuse_ignored(config: ConfigDict, table: Mapping[str, Any], chosen: Any, by: str) -> None:
    """Raises UserError if a field is set that a table's options use, and what was chosen not.

    It uses the fields that its parameters name, or that are its attributes with the same value.
    `by` says what was chosen.
    """
    used = _parameters(chosen)
    for name in (name for name in _DEFAULTS if config[name] != _DEFAULTS[name]):
        users = [option for option in table if name in _parameters(table[option])]
        own = getattr(chosen, name, None)
        has_it = isinstance(own, int | float | str | tuple) and own == config[name]
        if users and name not in used and not has_it:
            others = f" or choose {' or '.join(users)}" if used else ""
            problem = f"is ignored by {by}; set it to {_DEFAULTS[name]!r}{others}"
            raise _error(config, name, problem)


def create(
    config: ConfigDict,
    field: str,
    table: Mapping[str, Any],
    kind: Any = None,
    *,
    is_saved: bool = False,
    **given: Any,
) -> Any:
    """Returns what the choice of `choose` creates from the fields that it uses.

    `kind` is the type of the result; where it is set, a choice may also be the user's own, or
    an object. `given` are arguments that are no fields, or instead of them, for those that
    take them.

    Raises:
      UserError: As from `choose`; or nothing of this kind can be created.
    """
    chosen = choose(config, field, table, own=bool(kind), is_saved=is_saved)
    values = {**config, **given}
    with refusing(f"config.{field}: {config[field]}", "correct its code", Exception):
        if not (kind and isinstance(chosen, kind)):
            # Not every field whose name a parameter of the user's own class happens to have.
            known = {*given, *itertools.chain(*map(_parameters, table.values()))}
            fields = {n: values[n] for n in _parameters(chosen) if n in values and n in known}
            chosen = _call(chosen, tuple(fields.items()))
        if kind and not isinstance(chosen, kind):
            raise TypeError(f"is a {type(chosen).__name__}, expected a {kind.__name__}")
    return chosen


def _parameters(option: Any) -> list[str]:
    # A ready model or task, a dataclass, gets nothing more from the config.
    is_called = callable(option) and not dataclasses.is_dataclass(type(option))
    return list(inspect.signature(option).parameters) if is_called else []


@functools.lru_cache  # jit would compile what equal objects compute again.
def _call(function: Callable[..., Any], arguments: tuple[tuple[str, Any], ...]) -> Any:
    return function(**dict(arguments))


def _error(config: ConfigDict, name: str, problem: str) -> UserError:
    value = " ".join(repr(config[name]).split())  # A ConfigDict's has several lines.
    return UserError(f"config.{name}: {value} {problem}")


def check_resumable(config: ConfigDict, saved: ConfigDict, workdir: object) -> None:
    """Raises UserError if `config` can't resume the run in `workdir`, saved with `saved`."""
    changeable = set(_CHANGEABLE_FIELDS)
    if own_path(config.dataset):  # It may have moved: its digest is compared.
        changeable.add("dataset")
    if saved.early_stopping_evals:  # Then it decides the last step.
        changeable.remove("eval_every_steps")
    differences = "; ".join(
        f"config.{name}: {config[name]!r} here, {saved[name]!r} there"
        for name in _DEFAULTS
        if name not in changeable and config[name] != saved[name]
    )
    if differences:
        advice = "set the same values, or choose another --workdir"
        raise UserError(f"{workdir}: its run has another config ({differences}); {advice}")


def hyperparameters(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that decide the results, for TensorBoard's HParams tab."""
    names = [name for name in _DEFAULTS if name not in _CHANGEABLE_FIELDS]
    fields = {name: config[name] for name in (*names, "num_train_steps")}
    # The tab accepts no tuples.
    return {name: str(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def from_json(fields: Mapping[str, Any]) -> ConfigDict:
    """Returns the locked config of a JSON object: what it was, not whether it is valid now.

    Raises:
      UserError: A field is unknown to this version, or is not of its type.
    """
    if unknown := sorted(fields.keys() - _DEFAULTS.keys()):
        raise UserError(f"config.{unknown[0]}: there is no such field in this version")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    # Older configs lack newer fields, whose defaults change nothing.
    config = ConfigDict(_DEFAULTS.to_dict() | values)
    for name in _DEFAULTS:  # A dataset's name leads to files.
        _validate_field(config, name, _CONSTRAINTS[name] if name == "dataset" else None)
    return config.lock()
