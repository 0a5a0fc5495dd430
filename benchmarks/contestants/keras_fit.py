"""The tutorial's job in Keras 3 on its JAX backend: `fit`, with its own callbacks."""

import math
import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
import tensorflow as tf
from arguments import create_parser
from stopwatch import Stopwatch


def dense(fan_in: int, fan_out: int, name: str, activation: str | None) -> keras.layers.Dense:
    """Returns a layer with the tutorial's initial weights."""
    initializer = keras.initializers.TruncatedNormal(stddev=1 / math.sqrt(fan_in))
    return keras.layers.Dense(
        fan_out, activation=activation, kernel_initializer=initializer, name=name
    )


class Report(keras.callbacks.Callback):
    """Prints the loss every 100 steps; evaluates every split at the end of an epoch."""

    def __init__(self, splits: dict[str, tuple[np.ndarray, np.ndarray]]):
        super().__init__()
        self.splits = splits
        self.accuracy = math.nan
        self.stopwatch = Stopwatch()
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Prints at every hundredth step."""
        self._step += 1
        if logs and self._step % 100 == 0:
            loss = float(logs["loss"])
            print(f"Step {self._step}: loss = {loss:.2f} ({self.stopwatch.lap():.3f} sec)")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Evaluates; here an epoch has 1,000 steps."""
        for name, (images, labels) in self.splits.items():
            _, self.accuracy = self.model.evaluate(images, labels, batch_size=5000, verbose=0)
            print(f"{name}: precision {self.accuracy:.4f}")

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Excludes evaluation and saving from the training speed."""
        self.stopwatch.restart()


def main() -> None:
    """Trains, reports, evaluates and saves."""
    args = create_parser(__doc__).parse_args()

    keras.utils.set_random_seed(args.seed)
    with np.load(args.data) as arrays:
        splits = {
            name: (
                arrays[f"{name}_image"].reshape(-1, 784).astype(np.float32) / 255.0,
                arrays[f"{name}_label"].astype(np.int32),
            )
            for name in ("train", "validation", "test")
        }

    model = keras.Sequential(
        [
            keras.Input((784,)),
            dense(784, 128, "hidden1", "relu"),
            dense(128, 32, "hidden2", "relu"),
            dense(32, 10, "softmax_linear", None),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    report = Report(splits)
    images, labels = splits["train"]
    batches = (
        tf.data.Dataset.range(len(labels))
        .shuffle(len(labels))
        .repeat()
        .batch(100)
        .map(lambda chosen: (tf.gather(images, chosen), tf.gather(labels, chosen)))
        .prefetch(tf.data.AUTOTUNE)
    )
    model.fit(
        batches,
        steps_per_epoch=1000,
        epochs=2,
        verbose=0,
        callbacks=[
            keras.callbacks.TensorBoard(str(args.workdir), update_freq=100),
            keras.callbacks.ModelCheckpoint(
                str(args.workdir / "checkpoint-{epoch}.weights.h5"), save_weights_only=True
            ),
            report,
        ],
    )
    print(report.stopwatch.result(report.accuracy))


if __name__ == "__main__":
    main()
