"""The tutorial's job in Flax NNX, in the style of flax's own `examples/mnist`.

A tf.data pipeline, and a jitted step per batch that also updates `nnx.MultiMetric`. Network and
optimizer are the tutorial's, and the arrays are in memory instead of read by TFDS.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import tensorflow as tf
from arguments import create_parser
from flax import nnx
from flax.metrics import tensorboard
from stopwatch import Stopwatch

tf.config.set_visible_devices([], "GPU")

Batch = Mapping[str, Any]


def linear(fan_in: int, fan_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a layer with the tutorial's initial weights."""
    initializer = jax.nn.initializers.truncated_normal(1 / math.sqrt(fan_in))
    return nnx.Linear(fan_in, fan_out, kernel_init=initializer, rngs=rngs)


class MLP(nnx.Module):
    """The tutorial's network."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden1 = linear(784, 128, rngs)
        self.hidden2 = linear(128, 32, rngs)
        self.softmax_linear = linear(32, 10, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits of flattened images."""
        x = nnx.relu(self.hidden1(x))
        x = nnx.relu(self.hidden2(x))
        return self.softmax_linear(x)


def loss_fn(model: MLP, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns the mean loss and the logits."""
    logits = model(batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), logits


@nnx.jit
def train_step(
    model: MLP, optimizer: "nnx.Optimizer[MLP]", metrics: nnx.MultiMetric, batch: Batch
) -> None:
    """One update."""
    (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])
    optimizer.update(model, grads)


@nnx.jit
def eval_step(model: MLP, metrics: nnx.MultiMetric, batch: Batch) -> None:
    """Adds a batch to the metrics."""
    loss, logits = loss_fn(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])


def main() -> None:
    """Trains, reports, evaluates and saves."""
    args = create_parser(__doc__).parse_args()

    tf.random.set_seed(args.seed)
    with np.load(args.data) as arrays:
        splits = {
            name: {
                "image": arrays[f"{name}_image"].reshape(-1, 784).astype(np.float32) / 255.0,
                "label": arrays[f"{name}_label"].astype(np.int32),
            }
            for name in ("train", "validation", "test")
        }
    train_ds = (
        tf.data.Dataset.from_tensor_slices(splits["train"])
        .shuffle(len(splits["train"]["label"]))
        .repeat()
        .batch(100, drop_remainder=True)
        .take(2000)
        .prefetch(1)
    )
    eval_ds = {
        name: tf.data.Dataset.from_tensor_slices(split).batch(5000).prefetch(1)
        for name, split in splits.items()
    }

    model = MLP(nnx.Rngs(args.seed))
    optimizer = nnx.Optimizer(model, optax.sgd(0.01), wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    writer = tensorboard.SummaryWriter(str(args.workdir))
    with ocp.StandardCheckpointer() as checkpointer:
        stopwatch = Stopwatch()
        for step, batch in enumerate(train_ds.as_numpy_iterator(), start=1):
            train_step(model, optimizer, metrics, batch)
            if step % 100:
                continue
            values = metrics.compute()
            loss = float(values["loss"])
            print(f"Step {step}: loss = {loss:.2f} ({stopwatch.lap():.3f} sec)")
            writer.scalar("train_loss", loss, step)
            writer.scalar("train_accuracy", values["accuracy"], step)
            metrics.reset()
            if step % 1000:
                continue
            checkpointer.save(
                args.workdir.absolute() / f"checkpoint-{step}", nnx.state((model, optimizer))
            )
            for name, dataset in eval_ds.items():
                for batch in dataset.as_numpy_iterator():
                    eval_step(model, metrics, batch)
                values = metrics.compute()
                accuracy = float(values["accuracy"])
                print(f"{name}: precision {accuracy:.4f}")
                writer.scalar(f"{name}_accuracy", accuracy, step)
                metrics.reset()
            stopwatch.restart()
    writer.close()
    print(stopwatch.result(accuracy))


if __name__ == "__main__":
    main()
