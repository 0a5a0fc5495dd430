"""Nothing that is loaded can run code, or lead out of the workdir."""

import contextlib
import json
import pickle
import types
from pathlib import Path

import numpy as np
import pytest

from mnist_jax import restoring
from mnist_jax.data import tfds_source
from mnist_jax.runtime import manifest
from mnist_jax.runtime.errors import DamagedCheckpointError, UserError
from mnist_jax.runtime.manifest import Manifest
from mnist_jax.train_loop import train_and_evaluate
from tests.faults import processes
from tests.workdirs import contents


class Malicious:
    """Unpickled, it creates the file."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self):
        return (Path.touch, (self._path,))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "executed"
    pickle.loads(pickle.dumps(Malicious(path)))
    assert path.exists()  # It would work.
    path.unlink()
    return path


def config():
    config = processes.short_config()
    config.update(num_train_steps=20)
    return config


def forge(workdir: Path, **fields) -> None:
    """Rewrites the manifest with matching digests, as only an attacker would."""
    folder = workdir / "checkpoints" / "20" / "default"
    content = json.loads((folder / "manifest.json").read_text())["content"]
    saved = content.pop("config") | fields
    forged = types.SimpleNamespace(to_dict=lambda: saved)  # A ConfigDict refuses some of them.
    (folder / "manifest.json").unlink()
    manifest.write(folder, Manifest(**content, config=forged))


# TensorStore's threads call back into a loop that orbax has closed after the first error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pickle_in_the_place_of_any_file_of_a_checkpoint(run: Path, trace: Path):
    folder = run / "checkpoints" / "20"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        good = path.read_bytes()
        path.write_bytes(pickle.dumps(Malicious(trace)))
        if path.name != "manifest.json":
            forge(run)
        with contextlib.suppress(DamagedCheckpointError, UserError):
            restoring.restore(run)
        path.write_bytes(good)
        assert not trace.exists()


def test_a_pickle_in_the_cache_of_a_dataset(trace: Path, tmp_path: Path, monkeypatch):
    config = processes.short_config()
    config.update(dataset="mnist", data_dir=str(tmp_path / "data"))
    cache = (
        tmp_path / "data" / "mnist" / f"mnist_jax_examples_v{tfds_source._CACHE_VERSION}.npz"
    )
    cache.parent.mkdir(parents=True)
    prepared = []
    monkeypatch.setattr(tfds_source, "_prepare", lambda *args: prepared.append(args) or 1 / 0)
    array = np.array([Malicious(trace)] * 3, dtype=object)
    good = {"class_names": ["a"], "digest": "", "sizes": [1, 1, 1], "label": [0, 0, 0]}
    for save in (
        lambda: np.savez(cache, allow_pickle=True, class_names=array),
        lambda: np.savez(cache, allow_pickle=True, image=array, **good),
        lambda: cache.write_bytes(pickle.dumps(Malicious(trace))),
    ):
        save()
        with pytest.raises(ZeroDivisionError):  # The cache is of no use: prepared anew.
            tfds_source.load("mnist", config)
        assert not trace.exists()
    assert len(prepared) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": "~no_such_user/etc"},
        {"dataset": "/etc\npasswd"},
        {"dataset": "mnist/../../etc"},
        {"dataset": "hub:user/code"},
        {"hidden_sizes": "__import__('os').abort()"},
        {"seed": {"__reduce__": "x"}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_forged_config_is_refused(fields: dict, run: Path):
    restoring.restore(run)
    forge(run)
    restoring.restore(run)  # The forgery itself is not noticed.
    forge(run, **fields)
    with pytest.raises((UserError, DamagedCheckpointError), match="the checkpoint of step 20"):
        restoring.restore(run)


def test_a_config_in_the_workdir_is_not_run(run: Path, trace: Path):
    text = f"from pathlib import Path\nPath({str(trace)!r}).touch()\n"
    for name in ("config.py", "default.py", "sitecustomize.py", "conftest.py"):
        (run / name).write_text(text)
    restoring.restore(run)
    train_and_evaluate(config(), run)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoints", "metrics.jsonl", ".lock", "damaged", "plugins/profile", "train"),
        "train/events.*.v2",
    ],
)
def test_a_link_that_leads_out_of_the_workdir_is_refused(name: str, run: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    (path,) = [*run.glob(name)] or [run / name]
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename(outside)
    else:
        outside.mkdir()
    path.symlink_to(outside)
    before = contents(tmp_path)
    longer = config()
    longer.num_train_steps = 40
    for use in (lambda: train_and_evaluate(longer, run), lambda: restoring.restore(run)):
        with pytest.raises(UserError, match=rf"{path} is a link"):
            use()
    assert contents(tmp_path) == before
