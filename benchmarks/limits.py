"""Limits of the machine: the matrix products of a training step alone, and a large product.

    python -m benchmarks.limits

Uses NumPy and its BLAS, in float32; ends with a line of JSON. With OPENBLAS_NUM_THREADS=1 it
uses one core.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np


def step_products(batch_size: int, widths: tuple[int, ...]) -> Callable[[], None]:
    """Returns a function that computes a training step's matrix products, and nothing else.

    For each layer the forward product, the product for the gradient of the weights and, except
    for the first layer, the product for the gradient of the inputs: eight products for three
    layers. The results are written into existing arrays.

    Args:
      batch_size: Examples per step.
      widths: Widths of the input and of every layer.
    """
    rng = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    activations = [array(batch_size, width) for width in widths]
    kernels = [array(*shape) for shape in pairwise(widths)]
    products = []
    for number, kernel in enumerate(kernels):
        inputs, outputs = activations[number : number + 2]
        products.append((inputs, kernel, np.empty_like(outputs)))
        products.append((inputs.T, outputs, np.empty_like(kernel)))
        if number:
            products.append((outputs, kernel.T, np.empty_like(inputs)))

    def step() -> None:
        for left, right, out in products:
            np.matmul(left, right, out=out)

    return step


def seconds_per_call(
    function: Callable[[], object], calls: int, repeats: int, warm_up: int = 1
) -> float:
    """Returns the seconds per call: the mean over `calls` calls, the median over `repeats`."""
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        seconds.append((time.perf_counter() - start) / calls)
    return statistics.median(seconds)


def product_gflops(size: int, repeats: int) -> float:
    """Returns the GFLOP/s of a product of two square matrices: the best of `repeats`."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, size, size), np.float32)
    out = np.empty_like(a)
    seconds = min(
        seconds_per_call(lambda: np.matmul(a, b, out=out), calls=1, repeats=1)
        for _ in range(repeats)
    )
    return 2 * size**3 / seconds / 1e9


def main() -> None:
    """Measures, and prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="per repeat")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--product-size", type=int, default=2048)
    args = parser.parse_args()
    step = step_products(100, (784, 128, 32, 10))
    seconds = seconds_per_call(step, args.steps, args.repeats, warm_up=args.steps)
    gflops = product_gflops(args.product_size, repeats=8)
    print(json.dumps({"steps_per_second": 1 / seconds, "gflops": gflops}))


if __name__ == "__main__":
    main()
