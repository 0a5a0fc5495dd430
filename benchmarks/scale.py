"""What more devices give: measured here, worked out for accelerators.

python benchmarks/scale.py model     # The tables of docs/scale.md, from vendors' figures.
python benchmarks/scale.py measure   # Milliseconds a step, on this machine's CPU.
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
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ACCELERATORS = (8, 64, 512, 4096)


class Link(NamedTuple):
    """What connects accelerators.

    Attributes:
      name: For the table.
      bandwidth: Bytes a second that one accelerator sends while it receives as many.
      latency: Seconds from one accelerator to the next; an assumption, the order of what
        is usually measured.
      compute: Sustained FLOP/s of one such accelerator: 40 % of its peak.
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
    """Returns each layer's inputs and outputs."""
    sizes = (784, *widths, 10)
    return list(itertools.pairwise(sizes))


def gradient_bytes(widths: tuple[int, ...]) -> int:
    """Returns the size of the float32 gradients of kernels and biases."""
    return 4 * sum(inputs * outputs + outputs for inputs, outputs in layers(widths))


def sent_bytes(widths: tuple[int, ...], accelerators: int) -> float:
    """Returns what each accelerator sends in a step, by a ring: 2 (n - 1) / n of them."""
    return 2 * (accelerators - 1) / accelerators * gradient_bytes(widths)


def all_reduce_seconds(widths: tuple[int, ...], accelerators: int, link: Link) -> float:
    """Returns the time of the better of a ring and a tree.

    A ring sends the least, in 2 (n - 1) hops; a double binary tree the gradients twice, in
    2 log2(n) (Sanders, Speck, Träff 2009; what NCCL does).
    """
    hops = 2 * (accelerators - 1)
    ring = sent_bytes(widths, accelerators) / link.bandwidth + hops * link.latency
    hops = 2 * math.ceil(math.log2(accelerators))
    tree = 2 * gradient_bytes(widths) / link.bandwidth + hops * link.latency
    return min(ring, tree)


def backward_flops(widths: tuple[int, ...]) -> int:
    """Returns the backward pass's FLOPs for one example: two products for each kernel.

    But for the first, whose inputs need no gradient.
    """
    (inputs, outputs), *others = layers(widths)
    return 2 * inputs * outputs + sum(4 * m * n for m, n in others)


def hiding_batch(widths: tuple[int, ...], accelerators: int, link: Link) -> int:
    """Returns the rows an accelerator from which its backward pass lasts as the all-reduce."""
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
    """Prints milliseconds a step of the default network, by processes and devices of each."""
    print("| processes | devices of each | ms a step, batch 100 | ms a step, batch 4,096 |")
    print("|---|---|---|---|")
    for processes, devices in ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (4, 1), (2, 2), (8, 1)):
        small, large = (f"{1e3 * seconds:.1f}" for seconds in _measure(processes, devices))
        print(f"| {processes} | {devices} | {small} | {large} |", flush=True)


def _measure(processes: int, devices: int) -> list[float]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, __file__, "worker", str(port), str(processes)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    workers = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True, env=environment)
        for i in range(processes)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    return json.loads(outputs[0].splitlines()[-1])


def worker(port: int, processes: int, process_id: int) -> None:
    """Prints the median seconds a step for both batches, as one process of a job."""
    from mnist_jax.parallel import devices

    job = devices.joined(f"127.0.0.1:{port}", processes, process_id)
    with job if processes > 1 else contextlib.nullcontext(), devices.use_all():
        seconds = [_seconds_a_step(100, steps=50), _seconds_a_step(4096, steps=10)]
    print(json.dumps(seconds))


def _seconds_a_step(batch_size: int, steps: int) -> float:
    import jax

    from configs import default
    from mnist_jax import input_pipeline
    from mnist_jax.data import builtin
    from mnist_jax.parallel import devices
    from mnist_jax.train_step import create_train_state, train_steps

    train = builtin.make_fake(0).train
    state = create_train_state(default.get_config(), 10)
    images, labels = devices.put(tuple(array.repeat(3, axis=0) for array in train))
    indices = input_pipeline.batch_indices(0, range(1, 1 + steps), batch_size, len(labels))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(train_steps(state, images, labels, indices))
        seconds.append((time.perf_counter() - start) / steps)
    return statistics.median(seconds[1:])  # The first one compiles.


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
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
