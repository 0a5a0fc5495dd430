"""The cost of several devices: measured on this machine's CPU, computed for accelerators.

Usage:
    python -m benchmarks.scale model     # The tables of docs/scale.md, from vendors' figures.
    python -m benchmarks.scale measure   # Milliseconds per step, on this machine's CPU.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

ACCELERATORS = (8, 64, 512, 4096)


class Link(NamedTuple):
    """The link between accelerators.

    Attributes:
      name: Its name in the table.
      bandwidth: Bytes per second that an accelerator sends while it receives as many.
      latency: Seconds from one accelerator to the next; assumed, of the order of usual
        measurements.
      compute: FLOP/s that such an accelerator sustains: 40 % of its peak.
    """

    name: str
    bandwidth: float
    latency: float
    compute: float


# H100 SXM: 494.5 TFLOP/s in TF32 without sparsity, NVLink 4 900 GB/s in both directions
# (NVIDIA's data sheet); one ConnectX-7 of 400 Gbit/s for each GPU (DGX H100's data sheet).
# TPU v5p: 459 TFLOP/s in bfloat16, ICI 4,800 Gbit/s each way over a chip's six links (Google
# Cloud's "TPU v5p").
LINKS = (
    Link("NVLink 4", 450e9, 1e-6, 0.4 * 494.5e12),
    Link("InfiniBand NDR", 50e9, 3e-6, 0.4 * 494.5e12),
    Link("TPU v5p ICI", 600e9, 1e-6, 0.4 * 459e12),
)


def layers(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Returns the number of inputs and outputs of each layer."""
    sizes = (784, *widths, 10)
    return list(itertools.pairwise(sizes))


def gradient_bytes(widths: tuple[int, ...]) -> int:
    """Returns the size of the float32 gradients, those of kernels and biases."""
    return 4 * sum(inputs * outputs + outputs for inputs, outputs in layers(widths))


def sent_bytes(widths: tuple[int, ...], accelerators: int) -> float:
    """Returns the bytes that each of n accelerators sends per step.

    In a ring all-reduce these are 2 (n - 1) / n times the gradients' bytes.
    """
    return 2 * (accelerators - 1) / accelerators * gradient_bytes(widths)


def all_reduce_seconds(widths: tuple[int, ...], accelerators: int, link: Link) -> float:
    """Returns the time of the faster one of a ring and a tree.

    A ring sends the fewest bytes, in 2 (n - 1) hops. A double binary tree sends the gradients
    twice, in 2 log2(n) hops (Sanders, Speck, Träff 2009; NCCL uses both).
    """
    hops = 2 * (accelerators - 1)
    ring = sent_bytes(widths, accelerators) / link.bandwidth + hops * link.latency
    hops = 2 * math.ceil(math.log2(accelerators))
    tree = 2 * gradient_bytes(widths) / link.bandwidth + hops * link.latency
    return min(ring, tree)


def backward_flops(widths: tuple[int, ...]) -> int:
    """Returns the FLOPs of the backward pass for one example.

    There are two products for each kernel, and one for the first, whose inputs need no
    gradient.
    """
    (inputs, outputs), *others = layers(widths)
    return 2 * inputs * outputs + sum(4 * m * n for m, n in others)


def hiding_batch(widths: tuple[int, ...], accelerators: int, link: Link) -> int:
    """Returns the batch size per accelerator that can hide the all-reduce.

    From this size on, the backward pass takes at least as long as the all-reduce.
    """
    seconds = all_reduce_seconds(widths, accelerators, link)
    return math.ceil(seconds * link.compute / backward_flops(widths))


def tables() -> Iterator[str]:
    """Yields the lines of the tables, in Markdown."""
    shapes = ((128, 32), (512, 256), (1024, 1024), (4096, 4096), (16384, 16384))
    header = " | ".join(f"{n:,}" for n in ACCELERATORS)
    yield f"| hidden | gradients | sent by each of {header} |"
    yield "|---|---|" + "---|" * len(ACCELERATORS)
    for widths in shapes:
        sent = " | ".join(_size(sent_bytes(widths, n)) for n in ACCELERATORS)
        yield f"| {_name(widths)} | {_size(gradient_bytes(widths))} | {sent} |"
    yield ""
    yield f"| link | hidden | {' | '.join(f'{n:,} accelerators' for n in ACCELERATORS)} |"
    yield "|---|---|" + "---|" * len(ACCELERATORS)
    for link in LINKS:
        for widths in shapes:
            cells = [
                f"{all_reduce_seconds(widths, n, link) * 1e6:,.0f} µs, "
                f"{_rounded(hiding_batch(widths, n, link)):,} rows"
                for n in ACCELERATORS
            ]
            yield f"| {link.name} | {_name(widths)} | {' | '.join(cells)} |"


def _name(widths: tuple[int, ...]) -> str:
    return "-".join(map(str, widths))


def _size(number: float) -> str:
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if number >= u)
    return f"{number / unit:.3g} {name}"


def _rounded(number: int) -> int:
    return int(float(f"{number:.2g}"))


def measure() -> None:
    """Prints a table of milliseconds per step of the default network."""
    print("| processes | devices per process | ms/step, batch 100 | ms/step, batch 4,096 |")
    print("|---|---|---|---|")
    for processes, devices in ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (4, 1), (2, 2), (8, 1)):
        small, large = (f"{1e3 * seconds:.1f}" for seconds in _measure(processes, devices))
        print(f"| {processes} | {devices} | {small} | {large} |", flush=True)


def _measure(processes: int, devices: int) -> list[float]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.scale", "worker", str(port), str(processes)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    workers = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True, env=environment)
        for i in range(processes)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    return json.loads(outputs[0].splitlines()[-1])


def worker(port: int, processes: int, process_id: int) -> None:
    """Prints the median seconds per step for both batch sizes, as one process of a job."""
    from mnist_jax.parallel import job, sharding

    with contextlib.ExitStack() as stack:
        if processes > 1:
            place = f"127.0.0.1:{port}", processes, process_id
            stack.enter_context(job.join_job(*place, timeout=300))
        stack.enter_context(sharding.use_devices())
        seconds = [_seconds_per_step(100, steps=50), _seconds_per_step(4096, steps=10)]
    print(json.dumps(seconds))


def _seconds_per_step(batch_size: int, steps: int) -> float:
    from benchmarks import throughput

    config = throughput.tutorial_config(batch_size=batch_size, steps_per_call=steps)
    repeat = throughput.repeat_training(config, throughput.random_examples(6000))
    seconds = []
    for _ in range(6):  # Not `seconds_per_call`: all processes must make the same calls.
        start = time.perf_counter()
        repeat(1)
        seconds.append((time.perf_counter() - start) / steps)
    return statistics.median(seconds[1:])  # The first call compiles.


def main() -> None:
    """Computes or measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("what", choices=["model", "measure", "worker"])
    parser.add_argument("numbers", nargs="*", type=int)
    arguments = parser.parse_args()
    if arguments.what == "model":
        print(*tables(), sep="\n")
    elif arguments.what == "measure":
        measure()
    else:
        worker(*arguments.numbers)


if __name__ == "__main__":
    main()
