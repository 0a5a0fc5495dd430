"""A choice is declared once, in a table; what it ignores is refused, by one rule."""

import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from mnist_jax.augmentation import AUGMENTATIONS
from mnist_jax.models import MODELS
from mnist_jax.optimizers import OPTIMIZERS, SCHEDULES
from mnist_jax.runtime.errors import UserError
from mnist_jax.tasks import TASKS
from mnist_jax.train_loop import train_and_evaluate
from tests.conftest import ROOT
from tests.workdirs import edit_manifest

TABLES = {
    "task": TASKS,
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
}


@pytest.mark.parametrize("field", TABLES)
def test_the_comment_of_a_field_lists_its_table(field):
    source = (ROOT / "mnist_jax" / "configs" / "default.py").read_text()
    comment = re.search(rf"((?:    # .*\n)+)    config\.{field} = ", source)[1]
    listed = [name for name in re.findall(r"[a-z_0-9]+", comment) if name in TABLES[field]]
    assert sorted(set(listed)) == sorted(TABLES[field])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "sdg"}, "optimizer: 'sdg' is none of sgd, adam, adamw, lion, adafactor"),
        ({"schedule": "linear"}, "schedule: 'linear' is none of constant, cosine, step"),
        ({"model": "rnn"}, "model: 'rnn' is none of mlp, cnn, or FILE.py:NAME"),
        ({"augmentation": "x"}, "augmentation: 'x' is none of random_shift, affine, elastic"),
        ({"task": "x"}, "task: 'x' is none of classification, or FILE.py:NAME"),
        (
            {"optimizer": "adam", "momentum": 0.9},
            "momentum: 0.9 is ignored by config.optimizer=adam; set it to 0.0 or choose sgd",
        ),
        ({"optimizer": "adam", "weight_decay": 0.1}, "or choose sgd or adamw or lion"),
        (
            {"drop_steps": (5,)},
            "drop_steps: .5,. is ignored by config.schedule=constant; .* step",
        ),
        ({"model": "cnn"}, "hidden_sizes: .16,. is ignored by config.model=cnn; .* choose mlp"),
        ({"schedule": "cosine", "warmup_steps": 40}, "warmup_steps: 40 leaves nothing of 40"),
        (
            {"trainable": "nothing"},
            "trainable: 'nothing' matches none of hidden1/bias, hidden1",
        ),
        ({"trainable": "("}, r"trainable: '\(' is not a regular expression"),
    ],
    ids=str,
)
def test_a_wrong_choice_is_refused_in_one_line(fake_config, tmp_path, fields, message):
    fake_config.update(fields)
    with pytest.raises(UserError, match=rf"^config\.{message}|{message}") as error:
        train_and_evaluate(fake_config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


class OwnModel(nn.Module):
    num_outputs: int = 10
    hidden_sizes = np.array([16])  # Of the class: the config does not fill it.

    @nn.compact
    def __call__(self, images, train=False, dropout=0.0):
        return nn.Dense(self.num_outputs)(images.reshape(len(images), -1) / 255)


def test_an_argument_of_a_given_models_call_is_not_filled_by_the_config(fake_config, tmp_path):
    fake_config.update(dropout=0.5, hidden_sizes=(128, 32))
    message = r"config.dropout: 0\.5 is ignored by the given model; set it to 0\.0$"
    with pytest.raises(UserError, match=message):
        train_and_evaluate(fake_config, tmp_path / "run", model=OwnModel())
    fake_config.update(dropout=0.0, num_train_steps=1)
    train_and_evaluate(fake_config, tmp_path / "run", model=OwnModel())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns_and_is_resumed_to_the_bit(fake_config, tmp_path, optimizer):
    fake_config.update(optimizer=optimizer, learning_rate=0.01 if optimizer == "sgd" else 0.003)
    fake_config.update(schedule="step", drop_steps=(15, 30), warmup_steps=5)
    whole = train_and_evaluate(fake_config, tmp_path / "whole")
    fake_config.num_train_steps = 20
    train_and_evaluate(fake_config, tmp_path / "resumed")
    fake_config.num_train_steps = 40
    resumed = train_and_evaluate(fake_config, tmp_path / "resumed")
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_a_run_of_version_0_2_with_an_ignored_field_is_resumed(fake_config, tmp_path):
    fake_config.update(model="cnn", hidden_sizes=(128, 32), num_train_steps=20)
    train_and_evaluate(fake_config, tmp_path)
    for folder in (tmp_path / "checkpoints").glob("*/default"):
        edit_manifest(folder, lambda content: content["config"].update(hidden_sizes=[7]))
    fake_config.update(hidden_sizes=(7,), num_train_steps=40)
    assert int(train_and_evaluate(fake_config, tmp_path).step) == 40
