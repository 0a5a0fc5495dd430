"""Exports a trained model to one file that other programs run without this package.

    mnist-jax export --workdir DIR [--step latest|best|N] [--member K]
        [--model FILE.py:NAME] [--task FILE.py:NAME] --output FILE

The exported function computes the model's outputs, such as logits, float32[batch, classes],
from inputs, such as images, uint8[batch, height, width], for a batch of any size.
A FILE that ends with .onnx is ONNX, and needs the package jax2onnx. Its metadata have the step
and, as JSON, the class_names.
Any other FILE is StableHLO, which jax alone runs on CPU, GPU or TPU:
`jax.export.deserialize(bytearray(content)).call(images)`.

Examples:
    mnist-jax export --workdir runs/mine --output digits.stablehlo
    mnist-jax export --workdir runs/mine --step best --output digits.onnx
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from mnist_jax.commands.flags import CHECKPOINT, restore_checkpoint
from mnist_jax.runtime import run_folder
from mnist_jax.runtime.errors import UserError, refusing
from mnist_jax.runtime.files import replacing
from mnist_jax.runtime.terminal import printable

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
    trained = restore_checkpoint()
    is_onnx = output.suffix == ".onnx"
    if is_onnx and trained.config.dtype != "float32":  # As onnxruntime on CPUs.
        trained = trained._replace(model=trained.model.clone(dtype="float32"))
    (batch,) = jax.export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *trained.input.shape), trained.input.dtype)
    advice = "use images.shape[0], not len(images)" + "; or a FILE without .onnx" * is_onnx
    place = f"model: {type(trained.model).__name__}"
    # Of jax 0.12, jax2onnx 0.17 can't convert inner functions.
    with jax.disable_jit(is_onnx), refusing(place, advice, Exception):
        if is_onnx:
            content = _to_onnx(trained.outputs, inputs, trained.manifest)
        else:
            platforms = ("cpu", "cuda", "rocm", "tpu")
            export = jax.export.export(jax.jit(trained.outputs), platforms=platforms)
            content = bytes(export(inputs).serialize())
    with refusing(f"output: {output}", "choose another file"), replacing(output) as stream:
        stream.write(content)
    text = f"Step {trained.step} of {trained.workdir}: {output}, {len(content):,} bytes"
    print(printable(text))


def _to_onnx(function: Callable[..., Any], inputs: Any, manifest: Any) -> bytes:
    with refusing("output: .onnx", "README.md says how to install it", ImportError):
        import jax2onnx
        import onnx
    names: Any = {"input_names": ["inputs"], "output_names": ["outputs"]}
    model = jax2onnx.to_onnx(function, inputs=[inputs], model_name="mnist_jax", **names)
    classes = json.dumps(manifest.class_names)
    onnx.helper.set_model_props(model, {"step": str(manifest.step), "class_names": classes})
    return model.SerializeToString()
