"""TensorBoard's event files as files: their records, what they hold, cutting off their ends.

A run that was killed may have written points that no checkpoint holds; the next attempt
writes them again, so the first ones go. TensorBoard's own way (a `SessionLog.START` event)
only hides them, and not in each of its readers.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

_HEADER, _FOOTER = 12, 4
_CRC_MASK = 0xA282EAD8


def record(data: bytes) -> bytes:
    """Returns a record of an event file, or of any TFRecord file.

    It is the length (uint64), its masked CRC-32C (uint32), the data and theirs, all little
    endian (https://www.tensorflow.org/tutorials/load_data/tfrecord).
    """
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    # TensorBoard's own, in Python, takes a third of a second for a megabyte.
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _CRC_MASK) & 0xFFFFFFFF)


def cut(logdir: Path, last_step: int) -> set[tuple[str, int]]:
    """Removes all events after `last_step`, or from a damaged one on.

    Args:
      logdir: Folder of the event files; each is in the order of its steps.
      last_step: The last to keep.

    Returns:
      The (tag, step) pairs that stay.
    """
    kept = set()
    for path in sorted(logdir.glob("events.out.tfevents.*")):
        points, size = _points_until(path, last_step)
        kept |= points
        if not points:
            path.unlink()
        elif size < path.stat().st_size:
            os.truncate(path, size)
    return kept


def points(logdir: Path) -> set[tuple[str, int]]:
    """Returns the (tag, step) pairs of the events that can be read."""
    paths = logdir.glob("events.out.tfevents.*")
    return {point for path in paths for point in _points_until(path, 2**63)[0]}


def _points_until(path: Path, last_step: int) -> tuple[set[tuple[str, int]], int]:
    """Returns the points up to `last_step`, and how many bytes of the file they take."""
    from tensorboard.compat.proto.event_pb2 import Event

    points, size = set(), 0
    for data, end in _records(path.read_bytes()):
        event = Event.FromString(data)
        if event.step > last_step:
            break
        points |= {(value.tag, event.step) for value in event.summary.value}
        size = end
    return points, size


def _records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yields each record's data, and where it ends, until one is not whole or damaged."""
    start = 0
    while start + _HEADER <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + _HEADER + length + _FOOTER
        content = data[start + _HEADER : end - _FOOTER]
        if data[start:end] != record(content):
            return
        yield content, end
        start = end
