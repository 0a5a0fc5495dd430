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

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from mnist_jax.commands.flags import CHECKPOINT, restore_checkpoint
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import UserError, refusing
from mnist_jax.runtime.files import replacing

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
    if os.path.lexists(output) and not os.path.isfile(output):  # noqa: PTH113 - may be too long
        raise UserError(f"output: {output}: not a file; choose another")  # Such as a device.
    trained = restore_checkpoint()

    def compute(inputs: jax.Array) -> Any:
        return trained.apply_fn(trained.variables, inputs, train=False)

    (batch,) = jax.export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *trained.input.shape), trained.input.dtype)
    advice = "it must take a batch of any size: by images.shape[0], not by len(images)"
    with refusing(f"model: {type(trained.model).__name__}", advice, TypeError):
        if output.suffix == ".onnx":
            content = _to_onnx(compute, inputs)
        else:
            platforms = ("cpu", "cuda", "rocm", "tpu")
            export = jax.export.export(jax.jit(compute), platforms=platforms)
            content = bytes(export(inputs).serialize())
    with refusing(f"output: {output}", "choose another file"), replacing(output) as stream:
        stream.write(content)
    print(f"Step {trained.step} of {trained.workdir}: {output}, {len(content):,} bytes")


def _to_onnx(function: Callable[..., Any], inputs: Any) -> bytes:
    with refusing("output: .onnx", "README.md says how to install it", ImportError):
        from jax2onnx import to_onnx
    return to_onnx(function, inputs=[inputs], model_name="mnist_jax").SerializeToString()
