"""Lists the runs below a folder: settings, progress and results.

    mnist-jax runs [--sort COLUMN] [--json] [FOLDER]...

The default FOLDER is runs. `best` is the best value on the validation split so far, `test` the
newest one on the test split; of several seeds they are means. `time` is that of the last
report, `config` has the fields that differ from the default.

Examples:
    mnist-jax runs
    mnist-jax runs --sort test experiments
    mnist-jax runs --json runs experiments
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from absl import flags

from mnist_jax.commands.flags import JSON
from mnist_jax.configs import default
from mnist_jax.reporting.journal import read_journal
from mnist_jax.runtime import manifest, run_folder
from mnist_jax.runtime.errors import UserError, first_line
from mnist_jax.runtime.terminal import printable

flags.declare_key_flag(JSON)
_COLUMNS = ("run", "state", "step", "best", "test", "seeds", "time", "config")
_RESOLVED = ("data_dir", "manual_dir", "examples")  # By `open_run`: of the machine.
_SORT = flags.DEFINE_enum("sort", "run", _COLUMNS, "The column to sort by.")


def main(folder: str = "runs", *folders: str) -> None:
    """Prints a table, or JSON."""
    rows = []
    for root in (folder, *folders):
        for path, names, _ in os.walk(run_folder.resolve("folder", root)):
            if "checkpoints" in names:
                names.clear()
                rows.append(_describe(Path(path)))
    if not rows:
        raise UserError(f"folder: {folder} contains no runs; choose another")
    rows.sort(key=_order)
    if JSON.value:
        print(json.dumps(rows))
        return
    table = [_COLUMNS, *map(_format, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print(printable("  ".join(map(str.ljust, line, widths)).rstrip()))


def _order(row: dict[str, Any]) -> tuple[bool, Any, str]:
    """Orders rows by the column of `--sort`; what is unknown comes last."""
    value = row[_SORT.value]
    return value is None, str(value) if isinstance(value, dict) else value or 0, row["run"]


def _describe(folder: Path) -> dict[str, Any]:
    """Returns a run's row, by column; what is unknown is None."""
    row: dict[str, Any] = dict.fromkeys((*_COLUMNS, "num_train_steps")) | {"run": str(folder)}
    try:
        lines = read_journal(folder, 2**31)
        steps = [path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
        results = folder / "results.json"
        end = json.loads(results.read_text())["step"] if results.is_file() else None
    except Exception as error:  # Of any type: files may be damaged, or of another version.
        return row | {"state": f"unreadable: {first_line(error)}"}
    row["step"] = max([line["step"] for line in lines], default=0)
    if lines:
        row["time"] = (folder / "metrics.jsonl").stat().st_mtime
    row["state"] = "complete" if end == row["step"] else "interrupted"
    saved = None
    for newest in sorted(steps, key=lambda path: int(path.name))[-1:]:
        try:
            saved = manifest.read(newest / "default")
        except Exception as error:  # Of any type.
            row["state"] = f"checkpoint {newest.name} is damaged: {first_line(error)}"
    if run_folder.is_in_use(folder):
        row["state"] = "running"
    if saved:
        initial = default.get_config()
        row["num_train_steps"] = saved.config.num_train_steps
        row["seeds"] = saved.config.num_seeds
        row["config"] = {
            name: value
            for name, value in saved.config.items()
            if value != initial[name] and name not in _RESOLVED
        }
        if best := saved.early_stopping or saved.best:
            row["best"], tag = best["value"], f"test/{best['name']}"
            row["test"] = next((x[tag] for x in reversed(lines) if tag in x), None)
    return row


def _format(row: dict[str, Any]) -> list[str]:
    """Returns a row as texts, in the order of `_COLUMNS`."""
    texts = {name: "-" if value is None else str(value) for name, value in row.items()}
    if row["num_train_steps"]:
        texts["step"] += f"/{row['num_train_steps']}"
    for name in ("best", "test"):
        texts[name] = texts[name] if row[name] is None else f"{row[name]:.4f}"
    if row["time"]:
        texts["time"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["time"]))
    if row["config"] is not None:
        texts["config"] = " ".join(f"{name}={value}" for name, value in row["config"].items())
    return [texts[name] for name in _COLUMNS]
