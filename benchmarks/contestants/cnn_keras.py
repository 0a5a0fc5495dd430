"""The network of configs/cnn.py in Keras 3 on its JAX backend: 500 steps by `fit`."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
import tensorflow as tf
from arguments import create_parser
from stopwatch import Stopwatch

STEPS, WARMUP = 500, 100
INIT = "lecun_normal"  # As Flax.


def create_model() -> keras.Sequential:
    """Returns two convolutions with batch norm and pooling, and a hidden layer with dropout."""
    shift = keras.layers.RandomTranslation(
        2 / 28, 2 / 28, fill_mode="constant", interpolation="nearest"
    )
    layers = [keras.Input((28, 28, 1)), shift]
    for features in (16, 32):
        layers += [
            keras.layers.Conv2D(
                features, 5, padding="same", use_bias=False, kernel_initializer=INIT
            ),
            keras.layers.BatchNormalization(momentum=0.95),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(2),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, "relu", kernel_initializer=INIT)]
    return keras.Sequential(
        [*layers, keras.layers.Dropout(0.4), keras.layers.Dense(10, kernel_initializer=INIT)]
    )


class Report(keras.callbacks.Callback):
    """Prints the loss every 100 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.stopwatch = Stopwatch()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Prints at every hundredth step."""
        if logs and (batch + 1) % 100 == 0:
            loss = float(logs["loss"])
            print(f"Step {batch + 1}: loss = {loss:.2f} ({self.stopwatch.lap():.3f} sec)")


def main() -> None:
    """Trains, reports and evaluates."""
    args = create_parser(__doc__).parse_args()
    keras.utils.set_random_seed(args.seed)
    with np.load(args.data) as arrays:
        splits = {
            name: (
                arrays[f"{name}_image"][..., None].astype(np.float32) / 255.0,
                arrays[f"{name}_label"].astype(np.int32),
            )
            for name in ("train", "test")
        }
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, STEPS - WARMUP, warmup_target=0.003, warmup_steps=WARMUP
    )
    model = create_model()
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, labels = splits["train"]
    batches = (
        tf.data.Dataset.range(len(labels))
        .shuffle(len(labels))
        .batch(100)
        .take(STEPS)
        .map(lambda chosen: (tf.gather(images, chosen), tf.gather(labels, chosen)))
        .prefetch(tf.data.AUTOTUNE)
    )
    report = Report()
    model.fit(batches, verbose=0, callbacks=[report])
    _, accuracy = model.evaluate(*splits["test"], batch_size=1000, verbose=0)
    print(report.stopwatch.result(accuracy))


if __name__ == "__main__":
    main()
