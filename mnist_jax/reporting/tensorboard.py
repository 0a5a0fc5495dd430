"""Temporary: `figure_worker` needs this interface, until the real module is merged."""

import struct
from collections.abc import Mapping
from typing import Any

from mnist_jax.reporting import tensorflow_summary


def create_summary_writer(logdir: str) -> Any:
    """Returns clu's `SummaryWriter`, imported without TensorFlow."""
    tensorflow_summary.replace_imports()
    from clu import metric_writers

    return metric_writers.SummaryWriter(logdir)


def write_images(writer: Any, step: int, images: Mapping[str, bytes]) -> None:
    """Writes PNGs by tag as they are."""
    from tensorboard.plugins.image import metadata

    values = {}
    for tag, png in images.items():
        width, height = struct.unpack(">II", png[16:24])  # PNG's first chunk, the header.
        values[tag] = [str(width).encode(), str(height).encode(), png]
    kind = metadata.create_summary_metadata(display_name=None, description=None)
    writer.write_summaries(step, values, dict.fromkeys(images, kind))
