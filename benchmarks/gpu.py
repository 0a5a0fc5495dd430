"""Compares the trainer on a GPU with PyTorch and with the limits of the GPU.

    python -m benchmarks.gpu [--document docs/performance.md]

Without a GPU it prints one line and exits with 0. Needs neither TensorFlow nor MNIST: the
images are random, which makes no difference in speed. If PyTorch can be imported and finds the
GPU, it is measured in the same process, in turns with the trainer.
"""

import argparse
import gzip
import importlib.util
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# By default jax allocates three quarters of the GPU's memory; PyTorch needs some of it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import backend

from benchmarks import document, step_cost, throughput
from benchmarks.throughput import Repeat

_TUTORIAL = (784, 128, 32, 10)
_STEPS_PER_CALL = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_BATCH_SIZES = (100, 1024, 8192, 65536)
_WIDTHS = (128, 1024, 4096, 8192)
_PRECISIONS = {
    "float32": "F32_F32_F32",
    "tf32": "TF32_TF32_F32",
    "bfloat16": "BF16_BF16_F32",
}


def main() -> None:
    """Measures and reports, or prints that there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="a tiny test run on the CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of a timing")
    parser.add_argument("--document", type=Path, help="replace its section `gpu`")
    args = parser.parse_args()
    device = jax.devices()[0]
    if device.platform != "gpu" and not args.cpu:
        print(f"no GPU: jax {jax.__version__} finds only {device.platform}")
        return
    timing = {"rounds": args.rounds, "seconds": args.seconds}
    parts = [_describe(device)]
    if args.cpu:
        parts.append(tutorial_section((1, 10), 1000, timing))
        parts.append(step_section(10, 1000, 256, 1 << 20, timing))
        parts.append(scaling_section((100,), (32,), 1000, 256, timing))
    else:
        parts.append(tutorial_section(_STEPS_PER_CALL, 55_000, timing))
        parts.append(step_section(100, 55_000, 8192, 1 << 30, timing))
        parts.append(scaling_section(_BATCH_SIZES, _WIDTHS, 55_000, 8192, timing))
    content = "\n".join(parts)
    print(content)
    if args.document:
        document.replace_section(args.document, "gpu", content)


def _describe(device: jax.Device) -> str:
    versions = f"jax {jax.__version__}, {backend.get_backend().platform_version}"
    torch = _import_torch()
    versions += f"; torch {torch.__version__}" if torch else "; no PyTorch with this GPU"
    return f"{device.device_kind}; {' '.join(versions.split())}.\n"


def _import_torch() -> Any:
    """Returns PyTorch if it is installed and finds a GPU, else None."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    return torch if torch.cuda.is_available() else None


def tutorial_section(
    steps_per_call: Sequence[int], num_examples: int, timing: Mapping[str, Any]
) -> str:
    """Times the tutorial's step for several steps per call, in turns with PyTorch's."""
    examples = throughput.random_examples(num_examples)
    functions: dict[Any, Repeat] = {}
    steps_of_call = {}
    for steps in steps_per_call:
        name = f"mnist_jax, {steps:,} steps per call"
        config = throughput.tutorial_config(steps_per_call=steps)
        functions[name] = throughput.repeat_training(config, examples)
        steps_of_call[name] = steps
    torch = _import_torch()
    if torch:
        torch.backends.cuda.matmul.allow_tf32 = True  # As XLA does by default.
        data = (np.asarray(examples["image"]), np.asarray(examples["label"]))
        functions["PyTorch, eager"] = repeat_torch_eager(torch, *data)
        steps_of_call["PyTorch, eager"] = 1
        for steps in (1, 100):
            name = f"PyTorch, a CUDA graph of {steps} steps"
            functions[name] = repeat_torch_graph(torch, *data, steps)
            steps_of_call[name] = steps
    times = throughput.seconds_per_call(functions, **timing)
    rows = []
    for name, seconds in times.items():
        step_seconds = seconds / steps_of_call[name]
        rows.append([name, f"{1 / step_seconds:,.0f}", f"{1e6 * step_seconds:,.1f}"])
    return document.table(["The tutorial's step", "steps/s", "µs per step"], rows)


def _torch_training(torch: Any, images: np.ndarray, labels: np.ndarray) -> tuple[Any, ...]:
    """Returns images, labels, model and optimizer of PyTorch, on the GPU."""
    nn = torch.nn
    model = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10)
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    # uint8, scaled in the step: as in the trainer.
    image = torch.from_numpy(images).cuda().flatten(1)
    return image, torch.from_numpy(labels).cuda().long(), model, optimizer


def repeat_torch_eager(torch: Any, images: np.ndarray, labels: np.ndarray) -> Repeat:
    """Returns a `Repeat` of a training step of PyTorch, which launches each operation."""
    image, label, model, optimizer = _torch_training(torch, images, labels)
    order = torch.randint(len(label), (1000, 100), device="cuda")

    def run(calls: int) -> None:
        for call in range(calls):
            chosen = order[call % 1000]
            optimizer.zero_grad()
            logits = model(image[chosen].float() / 255)
            torch.nn.functional.cross_entropy(logits, label[chosen]).backward()
            optimizer.step()
        torch.cuda.synchronize()

    return run


def repeat_torch_graph(
    torch: Any, images: np.ndarray, labels: np.ndarray, steps: int
) -> Repeat:
    """Returns a `Repeat` of a CUDA graph that contains `steps` training steps of PyTorch."""
    image, label, model, optimizer = _torch_training(torch, images, labels)
    order = torch.randint(len(label), (1000, steps, 100), device="cuda")
    chosen = order[0].clone()

    def step(indices: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = model(image[indices].float() / 255)
        torch.nn.functional.cross_entropy(logits, label[indices]).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # See PyTorch's notes on CUDA graphs.
        for _ in range(3):
            step(chosen[0])
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(steps):
            step(chosen[number])

    def run(calls: int) -> None:
        for call in range(calls):
            chosen.copy_(order[call % 1000])
            graph.replay()
        torch.cuda.synchronize()

    return run


def step_section(
    steps: int,
    num_examples: int,
    product_size: int,
    array_bytes: int,
    timing: Mapping[str, Any],
) -> str:
    """Compares the time of a step with that of its kernels, and with its limits."""
    examples = throughput.random_examples(num_examples)
    config = throughput.tutorial_config(steps_per_call=steps)
    training = throughput.repeat_training(config, examples)
    # A loop on the device with one tiny operation per iteration: no loop is faster.
    empty = jax.jit(lambda x: jax.lax.fori_loop(0, steps, lambda _, y: y * 1.5 + 1, x))
    functions = {"step": training, "empty": throughput.repeat(empty, jnp.zeros(8))}
    times = throughput.seconds_per_call(functions, **timing)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            training(1)
        (trace,) = Path(folder).rglob("perfetto_trace.json.gz")
        with gzip.open(trace) as file:
            kernels, kernel_seconds = kernel_time(json.load(file)["traceEvents"])
    peak_flops = throughput.product_flops_per_second(product_size)
    peak_bytes = throughput.bytes_per_second(array_bytes)
    work = step_cost.flops(100, _TUTORIAL)
    moved = step_cost.bytes_moved(100, _TUTORIAL)
    rows = [
        (f"a step, {steps} steps per call", times["step"] / steps),
        (f"its kernels ({kernels / steps:.1f} per step), profiled", kernel_seconds / steps),
        ("limit: an iteration of an empty loop on the device", times["empty"] / steps),
        (f"limit: {moved / 1e6:.2f} MB at {peak_bytes / 1e9:,.0f} GB/s", moved / peak_bytes),
        (
            f"limit: {work / 1e6:.1f} MFLOP at {peak_flops / 1e12:,.1f} TFLOP/s",
            work / peak_flops,
        ),
    ]
    return document.table(
        ["Where a step's time goes", "µs"],
        [[name, f"{1e6 * seconds:,.2f}" if seconds else ""] for name, seconds in rows],
    )


def kernel_time(events: Iterable[Mapping[str, Any]]) -> tuple[int, float]:
    """Sums the kernels and copies on the GPU's streams in a profile.

    Args:
      events: Events of a trace in Chrome's JSON format, with durations in µs.

    Returns:
      The number of kernels and copies, and their total duration in seconds.
    """
    events = list(events)
    devices, streams = set(), set()
    for event in events:
        name = str(event.get("args", {}).get("name", ""))
        if event.get("name") == "process_name" and "/device:GPU" in name:
            devices.add(event["pid"])
        if event.get("name") == "thread_name" and name.startswith("Stream"):
            streams.add((event["pid"], event["tid"]))
    durations = [
        event["dur"]
        for event in events
        if event.get("ph") == "X"
        and event["pid"] in devices
        and (event["pid"], event["tid"]) in streams
    ]
    return len(durations), sum(durations) / 1e6


def scaling_section(
    batch_sizes: Sequence[int],
    widths: Sequence[int],
    num_examples: int,
    product_size: int,
    timing: Mapping[str, Any],
) -> str:
    """Compares large batches and wide networks with a large product, in each precision."""
    examples = throughput.random_examples(num_examples)
    shapes = [(size, (128, 32)) for size in batch_sizes]
    shapes += [(batch_sizes[-1], (width, width)) for width in widths]
    columns = {}
    for precision, algorithm in _PRECISIONS.items():
        with jax.default_matmul_precision(algorithm):
            try:
                dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
                peak = throughput.product_flops_per_second(product_size, dtype)
            except (ValueError, jax.errors.JaxRuntimeError):
                continue  # The device does not support it.
            functions = {
                shape: throughput.repeat_training(
                    throughput.tutorial_config(
                        batch_size=shape[0], hidden_sizes=shape[1], steps_per_call=10
                    ),
                    examples,
                )
                for shape in shapes
            }
            times = throughput.seconds_per_call(functions, **timing)
        columns[precision] = peak, times
    rows = []
    for batch_size, hidden in shapes:
        work = step_cost.flops(batch_size, (784, *hidden, 10))
        row = [f"{batch_size:,} x 784-{'-'.join(map(str, hidden))}-10"]
        for peak, times in columns.values():
            speed = work / (times[batch_size, hidden] / 10)
            row.append(f"{_significant(speed / 1e12)} ({100 * speed / peak:.0f} %)")
        rows.append(row)
    peaks = [_significant(peak / 1e12) for peak, _ in columns.values()]
    rows.append([f"a product of {product_size:,} x {product_size:,}", *peaks])
    header = ["TFLOP/s (share of the large product's)", *columns]
    return document.table(header, rows)


def _significant(value: float) -> str:
    """Returns a number with three significant digits and no exponent."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


if __name__ == "__main__":
    main()
