"""Several seeds in one program: each is its own run, and together they are a committee."""

import json
import re
import signal
import subprocess
import sys
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from mnist_jax import members, restoring
from mnist_jax.data.builtin import make_fake
from mnist_jax.digits.normalize import normalize
from mnist_jax.input_pipeline import batch_indices
from mnist_jax.runtime import memory
from mnist_jax.runtime.errors import UserError
from mnist_jax.runtime.signals import PreemptedError
from mnist_jax.tasks import Classification
from mnist_jax.train_loop import train_and_evaluate
from mnist_jax.train_step import train_steps
from tests.conftest import ROOT, create_fake_config
from tests.images import draw_seven, read_image
from tests.states import create_state
from tests.test_resume import assert_same_run
from tests.workdirs import contents, curves, journal, probabilities

SEED, NUM_SEEDS = 7, 3


class State(flax.struct.PyTreeNode):
    """What `members` needs of a `TrainState`."""

    step: jax.Array | None
    rng: jax.Array


# Whatever depends on the seed: initial parameters, order, dropout, distortions.
FIELDS = {"seed": SEED, "optimizer": "adam", "dropout": 0.2, "augmentation": "elastic"}


def create_config(num_seeds: int = NUM_SEEDS):
    config = create_fake_config()
    config.update(FIELDS | {"num_seeds": num_seeds, "log_every_steps": 5})
    return config


def results(workdir):
    return json.loads((workdir / "results.json").read_text())["splits"]


class WithoutValue(Classification):
    """With a number that is 0/0, as a precision may be at step 0."""

    def summarize(self, sums, count):
        more = super().summarize(sums, count)
        return more | {"late": np.nan}


def test_a_metric_without_a_first_value_has_its_band(fake_config, tmp_path):
    fake_config.update(num_seeds=2, num_train_steps=1)
    train_and_evaluate(fake_config, tmp_path, task=WithoutValue())
    assert "validation/late" not in journal(tmp_path)[0]
    assert "all/late" in bands(tmp_path)


def bands(workdir):
    """By tag, what the Custom Scalars tab shows of it."""
    (event,) = EventAccumulator(str(workdir)).Reload().Tensors(metadata.CONFIG_SUMMARY_TAG)
    (category,) = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category
    return {chart.title: chart.margin.series[0] for chart in category.chart}


def test_members_are_the_runs_of_consecutive_seeds(fake_config):
    fake_config.update(seed=5, num_seeds=3)
    assert [*members.seeds(fake_config)] == [5, 6, 7]
    steps = range(3, 5)
    each = [batch_indices(seed, steps, 30, 100) for seed in (5, 6, 7)]
    np.testing.assert_array_equal(members.batch_indices(fake_config, steps, 100), each)
    fake_config.num_seeds = 2
    np.testing.assert_array_equal(members.batch_indices(fake_config, steps, 100), each[:2])
    fake_config.num_seeds = 3
    state = create_state(fake_config)
    fake_config.num_seeds = 1
    np.testing.assert_array_equal(members.batch_indices(fake_config, steps, 100), each[0])
    single = create_state(fake_config)
    assert (members.are_several(state), members.are_several(single)) == (True, False)
    for number, seed in enumerate((5, 6, 7)):
        fake_config.seed = seed
        member, its = members.select(state, number, 3), create_state(fake_config)
        for mine, leaf in zip(jax.tree.leaves(member), jax.tree.leaves(its), strict=True):
            np.testing.assert_array_equal(mine, leaf, strict=True)
    assert members.select(single, 0, 1) is single


def test_as_many_members_as_fit_are_computed_together_but_on_a_cpu(fake_config, monkeypatch):
    fake_config.num_seeds = 5
    several = create_state(fake_config)
    fake_config.num_seeds = 1
    single = create_state(fake_config)
    size = memory.num_bytes(several) / 5  # Of a member; it may take a quarter of the memory.
    assert (members.at_once(several), members.at_once(single)) == (1, 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for limit, number in ((0, 1), (3, 1), (8.01, 2), (15.99, 3), (16.01, 4), (1000, 5)):
        monkeypatch.setattr(memory, "device_limit", lambda limit=limit: int(limit * size))
        assert members.at_once(several) == number
        assert members.at_once(single) == 1
        assert type(members.at_once(several)) is int


def test_a_step_of_the_members_is_counted_once():
    """And each gets its own part, by whatever function computes."""
    state = State(step=jnp.int32(7), rng=jnp.arange(6).reshape(3, 2))

    def function(examples, own, batches):
        assert own.rng.shape == (2,)
        metrics = {"sum": examples + own.rng.sum() + batches}
        return own.replace(step=own.step + len(batches), rng=own.rng * 2), metrics

    batches = jnp.array([[10, 20], [30, 40], [50, 60]])
    for at_once in (1, 2, 3):
        call = partial(members.map_members, function, jnp.int32(1000), state, batches, at_once)
        # A loop over the members, or over as many groups of them as are full.
        assert f"length={3 // at_once}" in str(jax.make_jaxpr(call)())
        after, metrics = call()
        assert (int(after.step), after.step.shape) == (9, ())
        np.testing.assert_array_equal(after.rng, 2 * state.rng)
        np.testing.assert_array_equal(
            metrics["sum"], np.array([[1011, 1021], [1035, 1045], [1059, 1069]]).T
        )


def test_each_member_sees_the_inputs():
    def apply(weights, inputs, *, train):
        assert not train
        return inputs @ weights

    weights, inputs = np.arange(6.0).reshape(2, 3, 1), np.ones((4, 3))
    outputs = jax.jit(partial(members.apply_each, apply))(weights, inputs)
    np.testing.assert_array_equal(outputs, np.repeat([[[3.0]], [[12.0]]], 4, axis=1))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A run of three seeds: its state and its folder."""
    workdir = tmp_path_factory.mktemp("several")
    return train_and_evaluate(create_config(), workdir), workdir


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """The runs of the same seeds, one by one."""
    runs = []
    for seed in range(SEED, SEED + NUM_SEEDS):
        config, workdir = create_config(num_seeds=1), tmp_path_factory.mktemp("single")
        config.seed = seed
        dataset = make_fake(SEED)  # By its name, it would depend on the seed.
        runs.append((train_and_evaluate(config, workdir, dataset=dataset), workdir))
    return runs


def test_each_member_has_the_bits_and_the_results_of_its_single_run(several, singles):
    state, workdir = several
    for number, (single, single_workdir) in enumerate(singles):
        member = members.select(state, number, NUM_SEEDS)
        for mine, its in zip(jax.tree.leaves(member), jax.tree.leaves(single), strict=True):
            np.testing.assert_array_equal(mine, its, strict=True)
        for split, values in results(single_workdir).items():
            ours = results(workdir)[split]
            assert ours["num_examples"] == values["num_examples"]
            for name in ("num_correct", "accuracy", "loss"):
                assert ours[name][number] == values[name]


@pytest.mark.parametrize("at_once", [2, NUM_SEEDS])
def test_members_computed_together_are_close_to_their_single_runs(fake_config, at_once):
    """Also where the number of members is no multiple."""
    fake_config.update(FIELDS | {"num_seeds": NUM_SEEDS})
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28), np.uint8)
    labels = np.arange(300, dtype=np.int32) % 10
    indices = members.batch_indices(fake_config, range(1, 21), 300)
    examples = {"image": images, "label": labels}
    together, metrics = train_steps(
        create_state(fake_config), examples, indices, members_at_once=at_once
    )
    assert metrics["loss"].shape == (20, NUM_SEEDS)
    for number, seed in enumerate(members.seeds(fake_config)):
        fake_config.update(seed=seed, num_seeds=1)
        np.testing.assert_array_equal(
            indices[number], batch_indices(seed, range(1, 21), 30, 300)
        )
        single, losses = train_steps(create_state(fake_config), examples, indices[number])
        np.testing.assert_allclose(metrics["loss"][:, number], losses["loss"], atol=1e-5)
        member = members.select(together.params, number, NUM_SEEDS)
        for mine, its in zip(
            jax.tree.leaves(member), jax.tree.leaves(single.params), strict=True
        ):
            np.testing.assert_allclose(mine, its, atol=1e-5)


def test_an_interrupted_run_of_several_seeds_is_resumed_to_the_bit(
    several, tmp_path, after_train_steps
):
    config = create_config()
    for stop_at, steps_per_call in ((13, 3), (28, 7)):
        config.steps_per_call = steps_per_call

        def stop(state, metrics, stop_at=stop_at):
            if int(state.step) >= stop_at:
                signal.raise_signal(signal.SIGTERM)
            return state, metrics

        after_train_steps(stop)
        with pytest.raises(PreemptedError):
            train_and_evaluate(config, tmp_path)
    after_train_steps(None)
    state = train_and_evaluate(config, tmp_path)
    assert_same_run(state, tmp_path, *several)


def test_reports_have_the_mean_the_deviation_and_the_range(singles, tmp_path, capsys):
    workdir = tmp_path / "run"
    train_and_evaluate(create_config(), workdir)
    lines = capsys.readouterr().out.splitlines()
    journals = [journal(folder) for _, folder in singles]
    ours, points = journal(workdir), curves(workdir)
    for number, line in enumerate(ours):
        for name in ("batch/loss", "train/accuracy", "test/loss"):
            if name in line:
                values = [lines_of_one[number][name] for lines_of_one in journals]
                for suffix, value in (
                    ("", np.mean(values)),
                    ("_std", np.std(values, ddof=1)),
                    ("_min", min(values)),
                    ("_max", max(values)),
                ):
                    assert line[name + suffix] == pytest.approx(value, rel=1e-5)
    for run in ("train", "validation", "test"):
        for suffix, tag in (("", "all"), ("_min", "range/all"), ("_max", "range/all")):
            expected = [line for line in ours if f"{run}/accuracy" in line]
            if run != "validation":  # TensorBoard has these from the first evaluation on.
                expected = expected[1:]
            assert [value for _, value in points[f"{run}/{tag}/accuracy{suffix}"]] == (
                pytest.approx([line[f"{run}/accuracy{suffix}"] for line in expected])
            )
    series = bands(workdir)
    assert series.keys() >= {"all/accuracy", "all/loss"}
    for tag, bounds in series.items():
        assert {f"validation/{x}" for x in (tag, bounds.lower, bounds.upper)} <= points.keys()
    test = results(workdir)["test"]
    mean, deviation = np.mean(test["accuracy"]), np.std(test["accuracy"], ddof=1)
    line = lines[-lines[::-1].index("Test Data Eval: [fake]")]
    assert line.endswith(f"Precision @ 1: {mean:.4f} ± {deviation:.4f} (3 seeds)")
    assert f"Their committee: Num correct: {test['committee_num_correct']}" in lines[-5]
    steps = [line for line in lines if line.startswith("Step ")]
    assert re.fullmatch(
        r"Step 5: loss = 2\.\d\d ± 0\.\d\d \([\d,]+ steps/s of 3 seeds\)", steps[0]
    )


def test_a_committee_has_the_mean_of_its_members_probabilities(several):
    _, workdir = several
    before = contents(workdir)
    model = restoring.restore(workdir)
    images, labels = restoring.load_run_dataset(model).splits["test"]
    members_of_it = [restoring.restore(workdir, member=k) for k in range(NUM_SEEDS)]
    each = [probabilities(member, images) for member in members_of_it]
    committee = probabilities(model, images)
    np.testing.assert_allclose(committee, np.mean(each, axis=0), atol=1e-6)
    test = results(workdir)["test"]
    assert (committee.argmax(axis=1) == labels).sum() == test["committee_num_correct"]
    assert test["committee_accuracy"] == test["committee_num_correct"] / len(labels)
    for number, of_one in enumerate(each):
        assert (of_one.argmax(axis=1) == labels).sum() == test["num_correct"][number]
    assert contents(workdir) == before


def test_the_commands_take_a_member_or_the_committee(several, tmp_path):
    _, workdir = several
    test = results(workdir)["test"]

    def run(command, *args):
        arguments = [command, f"--workdir={workdir}", *args]
        result = subprocess.run(
            [sys.executable, "-m", "mnist_jax", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    report = json.loads(run("evaluate", "--json", "--split=test"))
    assert (report["member"], report["splits"]["test"]) == (None, test)
    lines = run("evaluate", "--member=2", "--split=test").splitlines()
    assert lines[0] == f"Step 40 of {workdir}, member 2"
    assert f"Num correct: {test['num_correct'][2]} " in lines[2]
    image = tmp_path / "seven.png"
    draw_seven(28).save(image)
    pixels, _ = normalize(read_image(str(image)))
    for member in (None, 1):
        flags = () if member is None else (f"--member={member}",)
        report = json.loads(run("predict", "--json", *flags, str(image)))
        (expected,) = restoring.restore(workdir, member=member).predict(pixels[np.newaxis])
        assert report["member"] == member
        assert report["images"][0]["probabilities"] == expected["probabilities"]


def test_a_committee_is_sure_where_logits_are_extreme():
    logits = np.array([[[300.0, -300.0]], [[-300.0, 300.0]], [[300.0, -300.0]]], np.float32)
    expected = np.log([[2 / 3, 1 / 3]])
    np.testing.assert_allclose(Classification().combine(logits), expected, rtol=1e-6)


@pytest.mark.parametrize("member", [-1, NUM_SEEDS])
def test_a_member_that_does_not_exist_is_refused(several, member):
    message = f"member: .* has no member {member}; choose one from 0 to 2"
    with pytest.raises(UserError, match=message):
        restoring.restore(several[1], member=member)


def test_seeds_must_fit_into_32_bits(fake_config, tmp_path):
    fake_config.update(seed=2**32 - 2, num_seeds=3)
    with pytest.raises(UserError, match=r"config\.num_seeds: 3 leads to seeds above"):
        train_and_evaluate(fake_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_seeds_than_fit_into_memory_are_refused_at_once(fake_config, tmp_path):
    fake_config.num_seeds = 2**31 - 1
    with pytest.raises(UserError, match=r"config\.num_seeds: the run needs at least .* GB"):
        train_and_evaluate(fake_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
