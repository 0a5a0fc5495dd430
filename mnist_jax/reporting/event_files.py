"""TensorBoard's event files as files: their records, and removing later events.

A killed run may have written events after its newest checkpoint. The resumed run writes them
again, so the first ones are removed. TensorBoard's own way, a `SessionLog.START` event, only
hides them, and not in each of its readers.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

_HEADER, _FOOTER = 12, 4  # Bytes.
_CRC_MASK = 0xA282EAD8


def record(data: bytes) -> bytes:
    """Returns a record of an event file, or of any other TFRecord file.

    It contains the length (uint64), its masked CRC-32C (uint32), the data and their masked
    CRC-32C, all little endian (https://www.tensorflow.org/tutorials/load_data/tfrecord).
    """
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    # TensorBoard's own, in Python, takes a third of a second for a megabyte.
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _CRC_MASK) & 0xFFFFFFFF)


def truncate(logdir: Path, last_step: int) -> None:
    """Removes all events after `last_step`, and from the first damaged one on.

    Args:
      logdir: Folder of the event files; in each file the steps ascend.
      last_step: The last one to keep; at 0 the files are deleted, since the run starts anew.
    """
    for path in logdir.glob("events.out.tfevents.*"):
        size = _size_until(path, last_step) if last_step else 0
        if not size:
            path.unlink()
        elif size < path.stat().st_size:
            os.truncate(path, size)


def _size_until(path: Path, last_step: int) -> int:
    """Returns the size in bytes of the events up to `last_step`."""
    from tensorboard.compat.proto.event_pb2 import Event

    size = 0
    for data, end in _records(path.read_bytes()):
        event = Event.FromString(data)
        if event.step > last_step:
            break
        # A file that contains nothing but its version is of no use.
        if size or event.HasField("summary"):
            size = end
    return size


def _records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yields each record's data and its end, up to the first incomplete or damaged one."""
    start = 0
    while start + _HEADER <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + _HEADER + length + _FOOTER
        content = data[start + _HEADER : end - _FOOTER]
        if data[start:end] != record(content):
            return
        yield content, end
        start = end
