"""The program of the process that writes event files; see `event_writer`."""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from mnist_jax.reporting import tensorflow_summary, worker_process
from mnist_jax.runtime.errors import first_line


def _prepare() -> Callable[[Any], str | None]:
    tensorflow_summary.replace_imports()
    from clu import metric_writers

    writers: dict[str, Any] = {}

    def respond(request: tuple[str, str, tuple[Any, ...]]) -> str | None:
        """Calls a method of the folder's writer; returns the error, if it comes to one."""
        logdir, method, arguments = request
        try:
            if logdir not in writers:
                writers[logdir] = metric_writers.SummaryWriter(logdir)
            if method == "write_images":
                _write_images(writers[logdir], *arguments)
            else:
                getattr(writers[logdir], method)(*arguments)
            if method == "close":
                del writers[logdir]
        except Exception as error:  # Any: the parent tells it as a file that can't be written.
            writers.pop(logdir, None)
            return first_line(error)
        return None

    return respond


def _write_images(writer: Any, step: int, images: Mapping[str, bytes]) -> None:
    """Writes PNGs as they are; the writer's own `write_images` would compress pixels anew."""
    from tensorboard.plugins.image import metadata

    values = {}
    for tag, png in images.items():
        width, height = struct.unpack(">II", png[16:24])  # PNG's first chunk, the header.
        values[tag] = [str(width).encode(), str(height).encode(), png]
    kind = metadata.create_summary_metadata(display_name=None, description=None)
    writer.write_summaries(step, values, dict.fromkeys(images, kind))


if __name__ == "__main__":
    worker_process.serve(_prepare)
