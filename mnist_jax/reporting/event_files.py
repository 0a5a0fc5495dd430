"""Removes later events from TensorBoard's event files.

A resumed run writes the events after its checkpoint again. TensorBoard's own way, a
`SessionLog.START` event, only hides the earlier ones, and not in each of its readers.
"""

import struct
from pathlib import Path

from mnist_jax.runtime.files import open_regular


def truncate(logdir: Path, last_step: int) -> None:
    """Removes all events after `last_step`, and from the first unreadable one on.

    Args:
      logdir: Folder of the event files; in each file the steps ascend.
      last_step: The last one to keep; at 0 the run starts anew, and the files are deleted.
    """
    for path in logdir.glob("events.out.tfevents.*"):
        with open_regular(path, "r+b") as file:
            size = _size_until(file.read(), last_step) if last_step else 0
            file.truncate(size)
        if not size:
            path.unlink()


def _size_until(content: bytes, last_step: int) -> int:
    """Returns the size in bytes of the events up to `last_step`; 0 if there is none."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    size = start = 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)  # Then a checksum of 4 bytes.
        data, start = content[start + 12 : start + 12 + length], start + 12 + length + 4
        try:
            event = Event.FromString(data)
        except DecodeError:
            break
        if start > len(content) or event.step > last_step:  # Half-written, or later.
            break
        if size or not event.file_version:  # The first event is the file's version.
            size = start
    return size
