"""Reads back what a run wrote."""

import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray


def journal(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def curves(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) points of TensorBoard's scalars."""
    events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        for tag in events.PluginTagToContent("scalars")
    }


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below the folder with its bytes, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
