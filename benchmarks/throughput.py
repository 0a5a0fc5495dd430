"""Times device calls in turns, among them those of the trainer's own training steps."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mnist_jax.configs import default
from mnist_jax.models import create_model
from mnist_jax.parallel import sharding
from mnist_jax.tasks import Batch, create_task
from mnist_jax.train_step import TrainState, create_train_state, train_steps

# Makes that many calls, and returns when the device has completed them.
Repeat = Callable[[int], None]


def seconds_per_call(
    functions: Mapping[Any, Repeat], *, rounds: int = 5, seconds: float = 0.2
) -> dict[Any, float]:
    """Times functions in turns: each once per round.

    Args:
      functions: By any key. Each is called twice before the first round: the first call
        compiles, the second one shows how many calls a timing needs.
      rounds: Number of timings of each function.
      seconds: Approximate duration of a timing.

    Returns:
      The median over the rounds, in seconds per call, by key.
    """
    calls = {}
    for key, repeat in functions.items():
        repeat(1)
        start = time.perf_counter()
        repeat(1)
        calls[key] = max(1, round(seconds / (time.perf_counter() - start)))
    measured: dict[Any, list[float]] = {key: [] for key in functions}
    for _ in range(rounds):
        for key, repeat in functions.items():
            start = time.perf_counter()
            repeat(calls[key])
            measured[key].append((time.perf_counter() - start) / calls[key])
    return {key: statistics.median(values) for key, values in measured.items()}


def repeat(function: Callable[..., Any], *args: Any) -> Repeat:
    """Returns a `Repeat` that calls a function with the same arguments each time."""

    def run(calls: int) -> None:
        for _ in range(calls):
            result = function(*args)
        jax.block_until_ready(result)

    return run


def tutorial_config(**fields: Any) -> ConfigDict:
    """Returns the tutorial's config with some fields changed."""
    config = default.get_config()
    config.update(fields)
    return config


def create_state(config: ConfigDict) -> TrainState:
    """Returns the state at step 0, for images like MNIST's."""
    example = jax.ShapeDtypeStruct((28, 28), jnp.uint8)
    return create_train_state(config, create_model(config, 10), create_task(config), example)


def repeat_training(config: ConfigDict, examples: Batch, seed: int = 0) -> Repeat:
    """Returns a `Repeat` of `train_steps` with `config.steps_per_call` steps per call.

    Args:
      config: Gives the network, the optimizer, the batch size and the steps per call.
      examples: Those of `random_examples`.
      seed: Determines which examples a step sees; they are the same in every call.
    """
    state = create_state(config)
    shape = (config.steps_per_call, config.batch_size)
    indices = np.random.default_rng(seed).integers(0, len(examples["label"]), shape, np.int32)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = train_steps(state, examples, indices)
        jax.block_until_ready((state, metrics))

    return run


def random_examples(num_examples: int, seed: int = 0) -> Batch:
    """Returns random examples on the devices.

    `image` is `uint8[num_examples, 28, 28]`, `label` is `int32[num_examples]`.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_examples, 28, 28), np.uint8)
    labels = rng.integers(0, 10, num_examples, np.int32)
    return sharding.put_replicated({"image": images, "label": labels})


def product_flops_per_second(size: int, dtype: Any = jnp.float32, rounds: int = 8) -> float:
    """Returns the FLOP/s of a product of two square matrices, in the current precision."""
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    seconds = seconds_per_call({"": repeat(jax.jit(jnp.matmul), a, b)}, rounds=rounds)[""]
    return 2 * size**3 / seconds


def bytes_per_second(size: int, rounds: int = 8) -> float:
    """Returns the memory's speed, from reading and writing an array of `size` bytes."""
    array = jnp.zeros(size // 4, jnp.float32)
    # Donated: with a new array each time, the kernel's allocation of pages would be measured.
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run(calls: int) -> None:
        nonlocal array
        for _ in range(calls):
            array = add(array)
        jax.block_until_ready(array)

    return 2 * size / seconds_per_call({"": run}, rounds=rounds)[""]
