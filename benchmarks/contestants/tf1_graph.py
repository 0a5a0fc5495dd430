"""TensorFlow Mechanics 101 in today's `tf.compat.v1`: a graph that is fed batch by batch.

It improves on the original as its users would today: the order of an epoch is an index instead
of a shuffled copy of all images, and an evaluation feeds 5,000 images per call.
"""

import math

import numpy as np
import tensorflow.compat.v1 as tf
from arguments import create_parser
from stopwatch import Stopwatch

tf.disable_eager_execution()


class DataSet:
    """A split in memory, iterated epoch by epoch."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        self.images = images.reshape(-1, 784).astype(np.float32) / 255.0
        self.labels = labels.astype(np.int32)
        self._rng = rng
        self._order = rng.permutation(len(labels))
        self._start = 0

    def next_batch(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the next images and labels; a batch may span two epochs."""
        chosen = self._order[self._start : self._start + size]
        self._start += size
        if missing := size - len(chosen):
            self._order = self._rng.permutation(len(self.labels))
            chosen = np.concatenate([chosen, self._order[:missing]])
            self._start = missing
        return self.images[chosen], self.labels[chosen]


def layer(name: str, inputs: tf.Tensor, fan_in: int, fan_out: int) -> tf.Tensor:
    """Returns the layer's pre-activations."""
    with tf.name_scope(name):
        initial = tf.truncated_normal([fan_in, fan_out], stddev=1.0 / math.sqrt(fan_in))
        weights = tf.Variable(initial, name="weights")
        biases = tf.Variable(tf.zeros([fan_out]), name="biases")
        return tf.matmul(inputs, weights) + biases


def main() -> None:
    """Trains, reports, evaluates and saves."""
    args = create_parser(__doc__).parse_args()

    rng = np.random.default_rng(args.seed)
    with np.load(args.data) as arrays:
        splits = {
            name: DataSet(arrays[f"{name}_image"], arrays[f"{name}_label"], rng)
            for name in ("train", "validation", "test")
        }

    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(args.seed)
        images = tf.placeholder(tf.float32, [None, 784])
        labels = tf.placeholder(tf.int32, [None])
        hidden1 = tf.nn.relu(layer("hidden1", images, 784, 128))
        hidden2 = tf.nn.relu(layer("hidden2", hidden1, 128, 32))
        logits = layer("softmax_linear", hidden2, 32, 10)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        )
        num_correct = tf.reduce_sum(tf.cast(tf.nn.in_top_k(logits, labels, 1), tf.int32))
        global_step = tf.Variable(0, name="global_step", trainable=False)
        train_op = tf.train.GradientDescentOptimizer(0.01).minimize(
            loss, global_step=global_step
        )
        tf.summary.scalar("loss", loss)
        summary = tf.summary.merge_all()
        saver = tf.train.Saver()
        writer = tf.summary.FileWriter(str(args.workdir), session.graph)
        session.run(tf.global_variables_initializer())

        stopwatch = Stopwatch()
        for step in range(1, 2001):
            image_batch, label_batch = splits["train"].next_batch(100)
            feed = {images: image_batch, labels: label_batch}
            if step % 100:
                session.run([train_op, loss], feed)
                continue
            _, value, points = session.run([train_op, loss, summary], feed)
            print(f"Step {step}: loss = {value:.2f} ({stopwatch.lap():.3f} sec)")
            writer.add_summary(points, step)
            if step % 1000:
                continue
            saver.save(session, str(args.workdir / "checkpoint"), global_step=step)
            for name, split in splits.items():
                correct = sum(
                    session.run(
                        num_correct,
                        {
                            images: split.images[start : start + 5000],
                            labels: split.labels[start : start + 5000],
                        },
                    )
                    for start in range(0, len(split.labels), 5000)
                )
                accuracy = correct / len(split.labels)
                print(f"{name}: {correct} of {len(split.labels)}, precision {accuracy:.4f}")
            stopwatch.restart()
        writer.close()
        print(stopwatch.result(float(accuracy)))


if __name__ == "__main__":
    main()
