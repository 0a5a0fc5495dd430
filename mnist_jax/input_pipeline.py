"""Which examples each training step sees, and the batches of an evaluation."""

import functools
from collections.abc import Mapping

import numpy as np


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
    stream = np.concatenate([epoch_order(seed, epoch, num_examples) for epoch in epochs])
    offset = start % num_examples  # Of the first step, in its epoch.
    return stream[offset : offset + stop - start].reshape(len(steps), batch_size)


@functools.lru_cache(maxsize=128)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the permutation of an epoch, counted from 0: `int32[num_examples]`, read-only.

    It sorts the raw output of the counter-based generator Philox, keyed by (seed, epoch).
    Unlike `Generator.permutation`, whose algorithm NumPy may change (NEP 19), the result is
    the same with every version of NumPy.
    """
    draws = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    order = np.argsort(draws, kind="stable").astype(np.int32)
    order.flags.writeable = False
    return order


def eval_indices(sizes: Mapping[str, int], batch_size: int) -> dict[str, np.ndarray]:
    """Cuts each split into batches of one shape that contain every example exactly once.

    `sizes` is in the order in which the splits are stored.

    Returns:
      By split the example indices of each batch, in order, `int32[num_batches, batch_size]`;
      -1 in the rows that pad the last batch.
    """
    indices, start = {}, 0
    for split, size in sizes.items():
        rows = np.full((-(-size // batch_size), batch_size), -1, np.int32)
        rows.flat[:size] = np.arange(start, start + size)
        indices[split] = rows
        start += size
    return indices
