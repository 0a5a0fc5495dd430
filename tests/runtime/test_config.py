"""Configs: what is valid, what a resumed run may change, and the way to JSON and back."""

import json
import re

import pytest

from mnist_jax.configs import default
from mnist_jax.runtime import config as config_lib
from mnist_jax.runtime.errors import UserError
from tests.conftest import ROOT

# Overrides on the command line, and what the error must say.
WRONG_FIELDS = [
    # Types.
    ("learning_rate=fast", "learning_rate"),
    ("learning_rate=", "learning_rate"),
    ("learning_rate=(0.1,)", "learning_rate"),
    ("learning_rate=True", "learning_rate"),
    ("batch_size=64.0", "batch_size"),
    ("batch_size=64.5", "batch_size"),
    ("batch_size=True", "batch_size"),
    ("batch_size=many", "batch_size"),
    ("num_train_steps=1e3", "num_train_steps"),
    ("seed=None", "seed"),
    ("figures=maybe", "figures"),
    ("hidden_sizes=wide", "hidden_sizes"),
    ("hidden_sizes=(128, 32.5)", "hidden_sizes"),
    ("hidden_sizes=(128, True)", "hidden_sizes"),
    # Ranges.
    ("learning_rate=0", "config.learning_rate: 0.0 is not a finite number above 0"),
    ("learning_rate=-0.1", "config.learning_rate: -0.1 is not"),
    ("learning_rate=nan", "config.learning_rate: nan is not"),
    ("learning_rate=inf", "config.learning_rate: inf is not"),
    ("learning_rate=1e39", "config.learning_rate: 1e+39 is not"),
    ("momentum=1", "config.momentum: 1.0 is not"),
    ("momentum=-0.1", "config.momentum: -0.1 is not"),
    ("momentum=nan", "config.momentum: nan is not"),
    ("weight_decay=-1", "config.weight_decay: -1.0 is not"),
    ("weight_decay=inf", "config.weight_decay: inf is not"),
    ("grad_clip_norm=-1", "config.grad_clip_norm: -1.0 is not"),
    ("grad_clip_norm=nan", "config.grad_clip_norm: nan is not"),
    ("seed=-1", "config.seed: -1 is not an integer from 0 to 4294967295"),
    ("seed=4294967296", "config.seed: 4294967296 is not"),
    ("batch_size=0", "config.batch_size: 0 is not an integer from 1"),
    ("batch_size=-100", "config.batch_size: -100 is not"),
    ("num_train_steps=0", "config.num_train_steps: 0 is not"),
    ("num_train_steps=2147483648", "config.num_train_steps: 2147483648 is not"),
    ("steps_per_call=0", "config.steps_per_call: 0 is not"),
    ("log_every_steps=0", "config.log_every_steps: 0 is not"),
    ("eval_every_steps=-1", "config.eval_every_steps: -1 is not"),
    ("eval_batch_size=0", "config.eval_batch_size: 0 is not"),
    ("checkpoint_every_steps=0", "config.checkpoint_every_steps: 0 is not"),
    ("keep_checkpoints=0", "config.keep_checkpoints: 0 is not"),
    ("warmup_steps=-1", "config.warmup_steps: -1 is not"),
    ("hidden_sizes=(0,)", "config.hidden_sizes: (0,) is not"),
    ("hidden_sizes=(128, -1)", "config.hidden_sizes: (128, -1) is not"),
    ("hidden_sizes=(70000,)", "config.hidden_sizes: (70000,) is not"),
    ("conv_features=(16, 0)", "config.conv_features: (16, 0) is not"),
    ("profile_steps=(5,)", "config.profile_steps: (5,) is not"),
    ("profile_steps=(0, 5)", "config.profile_steps: (0, 5) is not"),
    ("profile_steps=(6, 5)", "config.profile_steps: (6, 5) is not"),
    # Names.
    ("fallback_dataset=mnist", "config.fallback_dataset: 'mnist' is not one of"),
    ("dataset=", "config.dataset: '' is not a dataset's name"),
    ("dataset=mnist/../..", "config.dataset: 'mnist/../..' is not"),
    (
        "dataset=./a\nb",
        r"config.dataset: './a\nb' is not a dataset's name, like 'mnist', or path",
    ),
    ("dataset=./a\0b", r"config.dataset: './a\x00b' is not"),
    ("dataset=~nobody_of_this_name/a", "config.dataset: '~nobody_of_this_name/a' is not"),
    ("image_size=(32,)", "config.image_size: (32,) is not a height and a width in pixels"),
    ("image_size=(32, 0)", "config.image_size: (32, 0) is not"),
    # Combinations.
    ("accumulate_steps=3", "config.accumulate_steps: 3 does not divide num_train_steps"),
    ("image_size=(8, 8)", "config.image_size: (8, 8) applies to your own folder of images"),
    ("profile_steps=(1, 2001)", "config.profile_steps: (1, 2001) ends after num_train_steps"),
    # Unknown fields.
    ("learning_rat=0.1", "did you mean config.learning_rate?"),
    ("batchsize=10", "did you mean config.batch_size?"),
    ("num_steps=10", "config.num_steps: there is no such field"),
    ("frobnicate=1", "config.frobnicate: there is no such field; see configs/default.py"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG_FIELDS)
def test_a_wrong_field_is_named(overrides: str, message: str, parse):
    arguments = [f"--config.{override}" for override in re.split(r" (?=[a-z])", overrides)]
    with pytest.raises(UserError) as error:
        parse(f"--config={ROOT / 'configs' / 'default.py'}", *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_sizes", {}),
        ("hidden_sizes", None),
        ("seed", "x"),
        ("seed", True),
        ("figures", 1),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object):
    config = default.get_config()
    with config.ignore_type():
        config[name] = value
    with pytest.raises(UserError, match=rf"^config\.{name}: .* is not "):
        config_lib.validate(config)


def test_a_missing_field_is_named():
    config = default.get_config()
    del config.seed
    with pytest.raises(UserError, match=r"config\.seed: missing"):
        config_lib.validate(config)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"learning_rate": 1, "hidden_sizes": (), "seed": 2**32 - 1},
        {"profile_steps": (2000, 2000), "warmup_steps": 3000},
        {"schedule": "cosine", "warmup_steps": 1999},
        {"steps_per_call": 2**20, "batch_size": 2**7},
        {"optimizer": "adamw", "weight_decay": 0.999, "dataset": "emnist/balanced"},
    ],
    ids=str,
)
def test_valid_configs_survive_json(fields: dict):
    config = default.get_config()
    config.update(fields)
    config_lib.validate(config)
    restored = config_lib.from_json(json.loads(json.dumps(config.to_dict())))
    assert restored.to_dict() == config.to_dict()
    assert restored.is_locked


def test_resuming_must_not_change_what_decides_the_parameters():
    changes = {
        "seed": 1,
        "num_seeds": 2,
        "dataset": "fake",
        "image_size": (8, 8),
        "image_background": 0,
        "task": "mine.py:Mine",
        "label_smoothing": 0.5,
        "init_from": "x",
        "trainable": "x",
        "drop_steps": (5,),
        "drop_factor": 0.5,
        "accumulate_steps": 5,
        "early_stopping_evals": 5,
        "model": "cnn",
        "hidden_sizes": (17,),
        "conv_features": (17,),
        "dropout": 0.5,
        "dtype": "bfloat16",
        "augmentation": "random_shift",
        "optimizer": "adam",
        "learning_rate": 0.5,
        "schedule": "cosine",
        "warmup_steps": 5,
        "momentum": 0.5,
        "weight_decay": 0.5,
        "grad_clip_norm": 0.5,
        "batch_size": 5,
        "fallback_dataset": "fake",
        "examples": "host",
        "data_dir": "x",
        "manual_dir": "x",
        "num_train_steps": 5,
        "steps_per_call": 5,
        "log_every_steps": 5,
        "eval_every_steps": 5,
        "eval_batch_size": 5,
        "figures": False,
        "log_histograms": True,
        "profile_steps": (1, 2),
        "checkpoint_every_steps": 5,
        "keep_checkpoints": 5,
    }
    saved = default.get_config()
    assert sorted(changes) == sorted(saved)
    fixed = list(changes)[:27]
    for name, value in changes.items():
        config = default.get_config()
        config[name] = value
        if name in fixed:
            difference = f"config.{name}: {value!r} here, {saved[name]!r} there"
            with pytest.raises(UserError, match=re.escape(difference)):
                config_lib.check_resumable(config, saved, "run")
        else:
            config_lib.check_resumable(config, saved, "run")
    config = default.get_config()
    config.dataset = "./moved"  # Its digest is compared.
    config_lib.check_resumable(config, saved, "run")


def test_hyperparameters_are_what_decides_the_results():
    hyperparameters = config_lib.hyperparameters(default.get_config())
    assert sorted(hyperparameters) == sorted(
        [
            "seed",
            "num_seeds",
            "dataset",
            "image_size",
            "image_background",
            "task",
            "label_smoothing",
            "init_from",
            "trainable",
            "drop_steps",
            "drop_factor",
            "accumulate_steps",
            "early_stopping_evals",
            "model",
            "hidden_sizes",
            "conv_features",
            "dropout",
            "dtype",
            "optimizer",
            "learning_rate",
            "schedule",
            "warmup_steps",
            "momentum",
            "weight_decay",
            "grad_clip_norm",
            "augmentation",
            "batch_size",
            "num_train_steps",
        ]
    )
    assert hyperparameters["hidden_sizes"] == "(128, 32)"
