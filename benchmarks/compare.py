"""Compares this trainer with its peers on the tutorial's job.

    python -m benchmarks.compare [--runs 5] [--only NAME ...] [--from RESULTS]

Runs each contestant once per round, so that other work on the machine affects all of them
alike; each run is a fresh process. Memory is measured in separate rounds, because sampling
slows a process down. Writes the results to a JSON file, and from it the table, the bars and
the plot into docs/performance.md. See benchmarks/README.md.
"""

import argparse
import dataclasses
import gzip
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import process

_HERE = Path(__file__).parent
_ROOT = _HERE.parent
# No peer draws figures; the trainer with its figures has its own row.
_TRAIN = (
    *("train.py", "--config", "configs/default.py", "--config.fallback_dataset="),
    "--config.figures=False",
)
# Disables the trainer's own compile cache, and one that the user has set up.
_NO_CACHE = {"JAX_COMPILATION_CACHE_DIR": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}
_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A program to run and measure.

    Attributes:
      title: Its name in the table.
      arguments: The interpreter's; `{data}`, `{workdir}`, `{caches}` and `{seed}` are replaced.
      env: Added to the environment, with the same replacements; an empty value removes a
        variable.
      python: The interpreter: `project` or `torch`.
      read: Called with its stdout and its workdir; returns the figures that it reports.
      job: `tutorial`, `cnn` or `evaluate`: what it does, and with whom it is compared.
      fills_cache: Run it once unmeasured before the first round.
      measures_memory: Include it in the rounds that sample memory.
    """

    title: str
    arguments: tuple[str, ...]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    python: str = "project"
    read: Callable[[str, Path], dict[str, Any]] = lambda stdout, workdir: json.loads(
        stdout.splitlines()[-1]
    )
    job: str = "tutorial"
    fills_cache: bool = False
    measures_memory: bool = True


def _read_journal(stdout: str, workdir: Path) -> dict[str, Any]:
    """Reads the trainer's figures from its journal; the speed is computed as by `Stopwatch`."""
    with (workdir / "metrics.jsonl").open() as file:
        lines = [json.loads(line) for line in file]
    speeds = [
        line["batch/steps_per_second"] for line in lines if "batch/steps_per_second" in line
    ]
    accuracies = [line["test/accuracy"] for line in lines if "test/accuracy" in line]
    return {
        "test_accuracy": accuracies[-1],
        "steps_per_second": statistics.median(speeds[1:]),
    }


def _read_evaluations(stdout: str, workdir: Path) -> dict[str, Any]:
    lines = (json.loads(line) for line in stdout.splitlines() if line.startswith("{"))
    first, *later = (line["evaluation_s"] for line in lines)
    return {"evaluation_s": statistics.median(later), "first_evaluation_s": first}


def _peer(title: str, program: str, *arguments: str, **kwargs: Any) -> Contestant:
    arguments = ("--data", "{data}", "--workdir", "{workdir}", "--seed", "{seed}", *arguments)
    kwargs.setdefault("env", _NO_CACHE)
    return Contestant(title, (f"benchmarks/contestants/{program}", *arguments), **kwargs)


_OURS = (*_TRAIN, "--config.seed={seed}", "--workdir", "{workdir}")
# The first command of all trains what the others evaluate.
_EVALUATE = """
import os, sys
from mnist_jax.__main__ import main
folder = sys.argv[1]
if not os.path.exists(folder):
    main(["", "train", "--workdir", folder, "--quiet"])
else:
    main(["", "evaluate", "--workdir", folder])
"""
_OURS_CNN = tuple(x.replace("default.py", "cnn.py") for x in _OURS)
_OURS_CNN += ("--config.num_train_steps=500", "--config.log_every_steps=100")
# The trainer's own cache, which is on by default, in a folder of the measurement.
_WARM = {
    "JAX_COMPILATION_CACHE_DIR": "",
    "JAX_ENABLE_COMPILATION_CACHE": "",
    "XDG_CACHE_HOME": "{caches}",
}
_INDUCTOR_COLD = {"TORCHINDUCTOR_CACHE_DIR": "{workdir}/inductor"}
_INDUCTOR_WARM = {"TORCHINDUCTOR_CACHE_DIR": "{caches}/inductor"}

CONTESTANTS = {
    "ours": Contestant("**mnist_jax**", _OURS, _NO_CACHE, read=_read_journal),
    "ours-warm": Contestant(
        "**mnist_jax**, warm compile cache", _OURS, _WARM, read=_read_journal, fills_cache=True
    ),
    "ours-figures": Contestant(
        "**mnist_jax**, warm, with its figures",
        (*_OURS, "--config.figures=True"),
        _WARM,
        read=_read_journal,
        fills_cache=True,
    ),
    "tf1": _peer("tf.compat.v1, feed_dict", "tf1_graph.py"),
    "torch": _peer("PyTorch, eager", "pytorch.py", python="torch"),
    "torch-compile": _peer(
        "PyTorch, torch.compile", "pytorch.py", "--compile", env=_INDUCTOR_COLD, python="torch"
    ),
    "torch-compile-warm": _peer(
        "PyTorch, torch.compile, warm compile cache",
        "pytorch.py",
        "--compile",
        env=_INDUCTOR_WARM,
        python="torch",
        fills_cache=True,
    ),
    "flax-nnx": _peer("Flax NNX, as in its example", "flax_nnx.py"),
    "keras": _peer("Keras 3 on JAX, fit", "keras_fit.py"),
    "ours-cnn": Contestant(
        "**mnist_jax**", _OURS_CNN, _NO_CACHE, read=_read_journal, job="cnn"
    ),
    "torch-cnn": _peer("PyTorch, eager", "cnn_pytorch.py", python="torch", job="cnn"),
    "keras-cnn": _peer("Keras 3 on JAX, fit", "cnn_keras.py", job="cnn"),
    "ours-evaluate": Contestant(
        "`mnist-jax evaluate`",
        ("-c", _EVALUATE, "{caches}/run"),
        _WARM,
        read=lambda stdout, workdir: {},
        job="evaluate",
        fills_cache=True,
    ),
    "torch-evaluate": _peer(
        "PyTorch, a loop over batches",
        "evaluate.py",
        "--model={caches}/model.pt",
        python="torch",
        job="evaluate",
        fills_cache=True,
    ),
    "keras-evaluate": _peer(
        "Keras 3 on JAX, `evaluate`",
        "evaluate.py",
        "--model={caches}/model.keras",
        job="evaluate",
        fills_cache=True,
    ),
    "products": Contestant(
        "limit: a step's 8 products in NumPy",
        ("-m", "benchmarks.limits"),
        measures_memory=False,
    ),
    "products-1-core": Contestant(
        "limit: the same on one core",
        ("-m", "benchmarks.limits"),
        {"OPENBLAS_NUM_THREADS": "1"},
        measures_memory=False,
    ),
    "import": Contestant(
        "limit: import jax, flax, orbax",
        ("-c", "import jax, flax, orbax.checkpoint"),
        read=lambda stdout, workdir: {},
    ),
    "ours-evaluation": Contestant(
        "mnist_jax, its evaluations timed",
        ("-m", "benchmarks.evaluation_time", *_OURS[1:]),
        _NO_CACHE,
        read=_read_evaluations,
        measures_memory=False,
    ),
    "loop": Contestant(
        "mnist_jax, its loop over `train_steps`",
        ("-m", "benchmarks.loop_overhead"),
        _NO_CACHE,
        measures_memory=False,
    ),
}


def main() -> None:
    """Measures, or reads earlier results, and writes the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds of timed runs")
    parser.add_argument("--memory-runs", type=int, default=1, help="rounds that sample memory")
    parser.add_argument(
        "--max-others",
        type=float,
        default=0.25,
        help="repeat a run, at most twice, if other processes used more cores than this",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CONTESTANTS)
    parser.add_argument(
        "--mnist",
        type=Path,
        default=os.environ.get("MNIST_JAX_MANUAL_DIR"),
        help="folder of MNIST's four original files; by default $MNIST_JAX_MANUAL_DIR",
    )
    parser.add_argument(
        "--torch-python",
        type=Path,
        default=_HERE / ".venv" / "bin" / "python",
        help="interpreter of the environment with PyTorch",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=_HERE / "results" / "compare.json",
        help="JSON file to write",
    )
    parser.add_argument("--from", dest="source", type=Path, help="only report these results")
    parser.add_argument(
        "--document",
        type=Path,
        default=_ROOT / "docs" / "performance.md",
        help="document with the sections to replace",
    )
    args = parser.parse_args()
    # Raises SystemExit, which also ends the current run.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))

    if args.source:
        results = json.loads(args.source.read_text())
    else:
        names = args.only or list(CONTESTANTS)
        pythons = {"project": sys.executable, "torch": str(args.torch_python.absolute())}
        needs_torch = any(CONTESTANTS[name].python == "torch" for name in names)
        if needs_torch and not args.torch_python.is_file():
            parser.error(
                f"--torch-python: {args.torch_python}: no such file; create PyTorch's "
                "environment (see benchmarks/README.md), or leave PyTorch out with --only"
            )
        if not args.mnist or not all(
            (args.mnist / file).is_file() for files in _FILES.values() for file in files
        ):
            parser.error("--mnist: give the folder of MNIST's four original files")
        rounds = {"num_runs": args.runs, "num_memory_runs": args.memory_runs}
        results = measure(
            names, pythons, args.mnist, args.results, max_others=args.max_others, **rounds
        )

    from benchmarks import report  # Here: the measurement needs no matplotlib.

    print(report.write(results, args.document, {n: c.title for n, c in CONTESTANTS.items()}))


def measure(
    names: list[str],
    pythons: Mapping[str, str],
    mnist: Path,
    path: Path,
    *,
    num_runs: int,
    num_memory_runs: int,
    max_others: float,
) -> dict[str, Any]:
    """Runs the contestants in rounds.

    Args:
      names: The contestants.
      pythons: Paths of the interpreters, by `Contestant.python`.
      mnist: Folder of MNIST's four original files.
      path: File of the results, rewritten after each run.
      num_runs: Number of timed rounds.
      num_memory_runs: Number of rounds that sample memory.
      max_others: A run during which other processes used more cores than this is repeated at
        most twice; the least disturbed of the runs counts.

    Returns:
      The results: `machine`, and `runs`, by contestant the figures of every run. Those of a
      round that samples memory contain the memory only.
    """
    results: dict[str, Any] = {"machine": describe_machine(pythons, names), "runs": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compare_") as folder:
        data, caches = Path(folder) / "mnist.npz", Path(folder) / "caches"
        prepare_data(mnist, data)

        def run(name: str, seed: int, sample_memory: bool) -> dict[str, Any]:
            contestant = CONTESTANTS[name]
            with tempfile.TemporaryDirectory(dir=folder) as workdir:
                places = {"data": data, "workdir": workdir, "caches": caches, "seed": seed}
                command = [argument.format(**places) for argument in contestant.arguments]
                try:
                    measured = process.run(
                        [pythons[contestant.python], *command],
                        env={
                            key: text.format(**places) for key, text in contestant.env.items()
                        },
                        cwd=_ROOT,
                        sample_memory=sample_memory,
                    )
                    figures = contestant.read(measured.stdout, Path(workdir))
                except (RuntimeError, ValueError, LookupError, OSError) as error:
                    return {"error": f"{type(error).__name__}: {error}"}
            if sample_memory:
                fields = ("peak_rss_mib", "peak_pss_mib")
                return {field: getattr(measured, field) for field in fields}
            whole = dataclasses.asdict(measured)
            del whole["stdout"], whole["peak_pss_mib"], whole["peak_rss_mib"]
            return {**whole, **figures, "seed": seed, "job": contestant.job}

        for name in names:
            # The first contestant's run fills the trainer's cache of the dataset.
            if CONTESTANTS[name].fills_cache or name == names[0]:
                print(f"{name}: unmeasured", file=sys.stderr)
                run(name, seed=0, sample_memory=False)
        for number in range(num_runs + num_memory_runs):
            sample_memory = number >= num_runs
            for name in names:
                if sample_memory and not CONTESTANTS[name].measures_memory:
                    continue
                figures = run(name, number, sample_memory)
                for _ in range(2):
                    if figures.get("others_cores", 0) <= max_others:
                        break
                    again = run(name, number, sample_memory)
                    figures = min(figures, again, key=lambda each: each.get("others_cores", 0))
                print(f"round {number + 1}, {name}: {figures}", file=sys.stderr, flush=True)
                results["runs"].setdefault(name, []).append(figures)
                path.write_text(json.dumps(results, indent=1))
    return results


def prepare_data(mnist: Path, path: Path) -> None:
    """Writes MNIST's splits, divided as in the tutorial, to one uncompressed `.npz` file."""

    def read(name: str, header_bytes: int) -> np.ndarray:
        with gzip.open(mnist / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header_bytes)

    arrays = {}
    for split, (images, labels) in _FILES.items():
        arrays[f"{split}_image"] = read(images, 16).reshape(-1, 28, 28)
        arrays[f"{split}_label"] = read(labels, 8)
    for kind in ("image", "label"):
        whole = arrays[f"train_{kind}"]
        arrays[f"validation_{kind}"], arrays[f"train_{kind}"] = whole[:5000], whole[5000:]
    np.savez(path, **arrays)  # type: ignore[arg-type]


def describe_machine(pythons: Mapping[str, str], names: list[str]) -> dict[str, str]:
    """Returns the processor, the number of cores, and the versions of Python and packages."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-cpu", "keras")
    versions = {name: metadata.version(name) for name in packages}
    if any(CONTESTANTS[name].python == "torch" for name in names):
        command = "from importlib import metadata; print(metadata.version('torch'))"
        versions["torch"] = subprocess.run(
            [pythons["torch"], "-c", command], capture_output=True, text=True, check=True
        ).stdout.strip()
    return {
        "processor": process.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **versions,
    }


if __name__ == "__main__":
    main()
