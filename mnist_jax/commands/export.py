"""Exports a trained model to one file that other programs run without this package.

    mnist-jax export --workdir DIR [--step latest|best|N] [--member K]
        [--model FILE.py:NAME] [--task FILE.py:NAME] --output FILE

The exported function computes the model's outputs, such as logits, float32[batch, classes],
from inputs, such as images, uint8[batch, height, width], for a batch of any size.
A FILE that ends with .onnx is ONNX, and needs the package jax2onnx.
Any other FILE is StableHLO, which jax alone runs on CPU, GPU or TPU:
`jax.export.deserialize(bytearray(content)).call(images)`.

Examples:
    mnist-jax export --workdir runs/mine --output digits.stablehlo
    mnist-jax export --workdir runs/mine --step best --output digits.onnx
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from mnist_jax.commands.flags import CHECKPOINT, restore_checkpoint
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import UserError, refusing
from mnist_jax.runtime.files import is_pipe_or_device, replacing

for flag in CHECKPOINT:
    flags.declare_key_flag(flag)

_OUTPUT = flags.DEFINE_string("output", "", "The file to write.")


def main() -> None:
    """Writes the file."""
    import jax

    if not _OUTPUT.value:
        raise UserError("output: missing; give --output FILE")
    output = Path(_OUTPUT.value)
    output = run_folder.resolve("output", output.parent) / output.name
    if is_pipe_or_device(output):  # A file would replace it.
        raise UserError(f"output: {output}: a pipe or a device; choose another file")
    trained = restore_checkpoint()

    def compute(inputs: jax.Array) -> Any:
        return trained.apply_fn(trained.variables, inputs, train=False)

    (batch,) = jax.export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *trained.input.shape), trained.input.dtype)
    convert = _to_onnx if output.suffix == ".onnx" else _to_stablehlo
    advice = "it must take a batch of any size: by images.shape[0], not by len(images)"
    with refusing(f"model: {type(trained.model).__name__}", advice, TypeError):
        content = convert(compute, inputs)
    with refusing(f"output: {output}", "choose another file"), replacing(output) as stream:
        stream.write(content)
    print(f"Step {trained.step} of {trained.workdir}: {output}, {len(content):,} bytes")


def _to_stablehlo(function: Callable[..., Any], images: Any) -> bytes:
    import jax

    export = jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "rocm", "tpu"))
    return bytes(export(images).serialize())


def _to_onnx(function: Callable[..., Any], images: Any) -> bytes:
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UserError("output: .onnx needs jax2onnx; see README.md") from error
    return to_onnx(function, inputs=[images], model_name="mnist_jax").SerializeToString()
