"""Which examples each training step sees, the batches of an evaluation, and where they are."""

import functools
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from mnist_jax.data.datasets import Split
from mnist_jax.parallel import sharding
from mnist_jax.runtime import memory
from mnist_jax.runtime.errors import UserError
from mnist_jax.tasks import Batch

_SMALL = 2**28  # Bytes of images.


def batch_indices(seed: int, steps: range, batch_size: int, num_examples: int) -> np.ndarray:
    """Returns the indices of the training examples that some steps see.

    The epochs' permutations, one after the other, form a stream of examples. Step s, counted
    from 1, sees the positions [(s - 1) * batch_size, s * batch_size) of it. A batch may span
    two epochs, as in the tutorial's `next_batch`; no example is dropped; and the step alone
    determines where a resumed run continues. `seed` is below 2**64.

    Returns:
      `int32[len(steps), batch_size]`, each in `[0, num_examples)`.
    """
    start, stop = (steps.start - 1) * batch_size, (steps.stop - 1) * batch_size
    epochs = range(start // num_examples, -(-stop // num_examples))
    parts = []
    for epoch in epochs:
        first = epoch * num_examples  # Its position in the stream.
        order = epoch_order(seed, epoch, num_examples)
        parts.append(order[max(0, start - first) : stop - first])
    return np.concatenate(parts).reshape(len(steps), batch_size)


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the permutation of an epoch, counted from 0: `int32[num_examples]`, read-only.

    It sorts the raw output of the counter-based generator Philox, keyed by (seed, epoch).
    Unlike `Generator.permutation`, whose algorithm NumPy may change (NEP 19), the result is
    the same with every version of NumPy.
    """
    orders = _newest_orders(seed, num_examples)
    if epoch in orders:
        return orders[epoch]
    draws = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    order = np.argsort(draws, kind="stable").astype(np.int32)
    order.flags.writeable = False
    for other in orders.keys() - {epoch - 1}:  # Of many examples, each takes much memory.
        del orders[other]
    return orders.setdefault(epoch, order)


@functools.lru_cache(maxsize=128)  # Members of a run, each with its seed.
def _newest_orders(seed: int, num_examples: int) -> dict[int, np.ndarray]:
    return {}


def eval_indices(sizes: Mapping[str, int], batch_size: int) -> dict[str, np.ndarray]:
    """Cuts each split into batches of one shape that contain every example exactly once.

    `sizes` is in the order in which the splits are stored.

    Returns:
      By split the example indices of each batch, in order, `int32[num_batches, batch_size]`;
      -1 in the rows that pad the last batch.
    """
    indices, start = {}, 0
    batch_size = min(batch_size, max(sizes.values()))
    for split, size in sizes.items():
        rows = np.full((-(-size // batch_size), batch_size), -1, np.int32)
        rows.flat[:size] = np.arange(start, start + size)
        indices[split] = rows
        start += size
    return indices


class Source(Protocol):
    """The examples of all splits, which it hands to the device calls."""

    def feed(self, indices: np.ndarray) -> tuple[Batch | None, Any]:
        """Returns what `take` takes inside of a call, for indices, `int32[..., batch]`."""


class DeviceExamples:
    """All examples in the memory of each device: a call gets indices alone."""

    def __init__(self, examples: Split):
        image, label = np.asarray(examples.image), examples.label
        self._examples = sharding.put_replicated({"image": image, "label": label})

    def feed(self, indices: np.ndarray) -> tuple[Batch | None, Any]:
        """Returns all examples, and the indices."""
        return self._examples, indices


class HostExamples:
    """Examples in the host's memory or in files: a call gets its own rows alone.

    They are read while the devices compute the call before. Each process reads the rows of its
    own devices.
    """

    def __init__(self, examples: Split):
        self._examples = examples._asdict()
        if examples.image.nbytes <= _SMALL and jax.process_count() == 1:
            # A row of a file takes microseconds: a small file is read once.
            self._examples["image"] = np.asarray(examples.image)

    def feed(self, indices: np.ndarray) -> tuple[Batch | None, Any]:
        """Returns None, and the rows; of the padding of an evaluation those of example 0."""
        rows = np.maximum(indices, 0)
        return None, {n: sharding.put_rows(x, rows) for n, x in self._examples.items()}


def take(examples: Batch | None, rows: Any) -> Batch:
    """Inside `jit`: returns the examples of some rows, or the rows that are a batch."""
    return rows if examples is None else {name: x[rows] for name, x in examples.items()}


def choose_place(examples: Split, where: str) -> str:
    """Returns "device" or "host", also for "auto"; see `config.examples`.

    Raises:
      UserError: The examples are wanted on the devices, and don't fit.
    """
    size, limit = examples.image.nbytes + examples.label.nbytes, memory.device_limit()
    if where == "auto":
        return "device" if size < limit / 2 else "host"
    if where == "device" and size > limit:
        problem = (
            f"{size / 1e9:.1f} GB of examples do not fit into a device's {limit / 1e9:.1f}"
        )
        raise UserError(f"config.examples: {problem} GB; set it to host")
    return where


def create_source(examples: Split, place: str) -> Source:
    """Returns the examples in their place, "device" or "host"."""
    return DeviceExamples(examples) if place == "device" else HostExamples(examples)
