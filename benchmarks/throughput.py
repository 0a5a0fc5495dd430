"""Times calls of the device in turns, and makes those of the trainer's own step."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import default
from mnist_jax.train_step import create_train_state, train_steps

# Makes so many calls, and returns when the device has carried them out.
Repeat = Callable[[int], None]


def seconds_per_call(
    functions: Mapping[Any, Repeat], *, rounds: int = 5, seconds: float = 0.2
) -> dict[Any, float]:
    """Times functions in turns: each once a round.

    Args:
      functions: By any key. Each is called twice before: it compiles, then shows its speed.
      rounds: How often each is timed.
      seconds: About as long as a timing shall take.

    Returns:
      By key, the median over the rounds.
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
    """Returns a `Repeat` of a function of device arrays; waits for the last call's result."""

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


def repeat_training(
    config: ConfigDict, images: jax.Array, labels: jax.Array, seed: int = 0
) -> Repeat:
    """Returns a `Repeat` of `train_steps`, a call being `config.steps_per_call` steps.

    Args:
      config: Batch size, widths and steps per call are its own.
      images: `uint8[examples, 28, 28]`, on the device.
      labels: `int32[examples]`, on the device.
      seed: Decides which examples a step sees; every call sees the same.
    """
    state = create_train_state(config, num_classes=10)
    shape = (config.steps_per_call, config.batch_size)
    indices = np.random.default_rng(seed).integers(0, len(labels), shape, np.int32)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = train_steps(state, images, labels, indices)
        jax.block_until_ready((state, metrics))

    return run


def random_examples(count: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Returns images, `uint8[count, 28, 28]`, and labels, `int32[count]`, of noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 10, count, np.int32))


def product_flops_per_second(size: int, dtype: Any = jnp.float32, rounds: int = 8) -> float:
    """Returns the speed of the product of two square matrices under the current precision."""
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    seconds = seconds_per_call({"": repeat(jax.jit(jnp.matmul), a, b)}, rounds=rounds)[""]
    return 2 * size**3 / seconds


def bytes_per_second(size: int, rounds: int = 8) -> float:
    """Returns the memory's speed: an array of `size` bytes read and written, in place."""
    array = jnp.zeros(size // 4, jnp.float32)
    # Donated: a new array each time would measure how fast the kernel gives out pages.
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run(calls: int) -> None:
        nonlocal array
        for _ in range(calls):
            array = add(array)
        jax.block_until_ready(array)

    return 2 * size / seconds_per_call({"": run}, rounds=rounds)[""]
