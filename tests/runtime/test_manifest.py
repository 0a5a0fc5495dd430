import json
import os

import pytest

from mnist_jax.configs import default
from mnist_jax.runtime import manifest as manifest_lib
from mnist_jax.runtime.errors import UserError
from mnist_jax.runtime.manifest import Manifest
from tests.workdirs import edit_manifest, rated

CLASS_NAMES = list("0123456789")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "20" / "default"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "array").write_bytes(b"numbers")
    manifest_lib.write(folder, Manifest(20, default.get_config(), CLASS_NAMES, rated(0.5)))
    (folder / "commit_success.txt").write_text("written by orbax afterwards")
    return folder


def test_a_manifest_is_read_as_it_was_written(folder):
    manifest = manifest_lib.read(folder)
    assert manifest[0] == 20
    assert manifest.config.to_dict() == default.get_config().to_dict()
    assert manifest[2:4] == (CLASS_NAMES, rated(0.5))
    assert list(manifest.digests) == ["d/array"]
    manifest_lib.verify_files(folder, manifest)


def test_a_manifest_of_version_0_1_can_be_read(folder):
    """It has the number of classes, no digest of the data, and a config of fewer fields."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())["content"]
    for newer in ("class_names", "data_digest", "image_shape"):
        del content[newer]
    del content["config"]["image_size"]
    content["num_classes"] = 3
    sealed = {"content": content, "sha256": manifest_lib._digest_json(content)}
    path.write_text(json.dumps(sealed))
    manifest = manifest_lib.read(folder)
    assert (manifest.class_names, manifest.data_digest) == (["0", "1", "2"], "")
    assert manifest.config.image_size == ()


def test_a_changed_file_is_named_and_an_added_one_is_ignored(folder):
    (folder / "d" / ".DS_Store").write_bytes(b"number5")
    manifest_lib.verify_files(folder, manifest_lib.read(folder))
    (folder / "d" / "array").write_bytes(b"number5")
    with pytest.raises(ValueError, match="d/array is not what was written"):
        manifest_lib.verify_files(folder, manifest_lib.read(folder))


def test_a_missing_file_is_named(folder):
    (folder / "d" / "array").unlink()
    with pytest.raises(ValueError, match="d/array is not what was written"):
        manifest_lib.verify_files(folder, manifest_lib.read(folder))


def test_a_changed_manifest_is_damaged(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"step": 20', '"step": 21'))
    with pytest.raises(ValueError, match=r"manifest\.json is not what was written"):
        manifest_lib.read(folder)


def test_a_config_that_this_code_does_not_know_is_refused(folder):
    manifest = manifest_lib.read(folder)
    with manifest.config.unlocked():
        manifest.config.new_field = 1
    manifest_lib.write(folder, manifest)
    with pytest.raises(UserError, match="new_field"):
        manifest_lib.read(folder)


@pytest.mark.parametrize(
    "name",
    ["20", "20/default", "20/default/manifest.json", "20/default/d/array", "20/default/d"],
)
def test_a_link_or_a_pipe_in_the_place_of_what_was_written_is_refused(folder, tmp_path, name):
    path = tmp_path / name
    path.rename(tmp_path / "outside")
    for create in (lambda path: path.symlink_to(tmp_path / "outside"), os.mkfifo):
        create(path)
        with pytest.raises((ValueError, OSError)):
            manifest_lib.verify_files(folder, manifest_lib.read(folder))
        path.unlink()


def test_a_field_that_an_earlier_version_did_not_save_has_its_default(folder):
    def age(content):
        del content["run_id"], content["journal_sha256"], content["config"]["grad_clip_norm"]

    edit_manifest(folder, age)
    manifest = manifest_lib.read(folder)
    assert (manifest.run_id, manifest.journal_sha256) == (None, None)
    assert manifest.config.to_dict() == default.get_config().to_dict()


def test_a_manifest_of_another_version_is_not_damaged(folder):
    edit_manifest(folder, lambda content: content.update(shards=4))
    with pytest.raises(UserError, match=r"manifest\.json: .*shards"):
        manifest_lib.read(folder)
    edit_manifest(folder, lambda content: [content.pop("shards"), content.pop("class_names")])
    with pytest.raises(UserError, match=r"manifest\.json: .*class_names"):
        manifest_lib.read(folder)
