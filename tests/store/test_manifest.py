"""A manifest that does not say what the store's other files say is found, whatever it is."""

import shutil
from pathlib import Path

import pytest

from dmsae_ray.errors import DataError
from dmsae_ray.files.folder import Folder
from dmsae_ray.store.layout import MANIFEST
from dmsae_ray.store.manifest import Manifest, check_manifest, read_commits
from dmsae_ray.store.reader import Store
from tests.small_store import FALSE_MANIFESTS, falsify


@pytest.fixture
def copied(store: Store, tmp_path: Path) -> Path:
    """A copy of the store's folder that a test may damage."""
    shutil.copytree(store.folder.uri, tmp_path / store.key)
    return tmp_path / store.key


def checked(store: Store, copied: Path) -> Manifest:
    """What a harvest asks before it believes a manifest."""
    folder = Folder(str(copied))
    return check_manifest(folder, MANIFEST, store.layout, read_commits(folder, store.layout))


def test_the_manifest_of_a_whole_store_lists_it(store: Store, copied: Path) -> None:
    assert checked(store, copied).listed == store.layout.all_shards()


@pytest.mark.parametrize("how", ["torn", "empty", "no request", *FALSE_MANIFESTS])
def test_a_manifest_that_is_none_or_lies_is_found(store: Store, copied: Path, how: str) -> None:
    manifest = copied / MANIFEST
    if how == "no request":
        (copied / "request.json").unlink()
    elif how in FALSE_MANIFESTS:
        falsify(manifest, how)
    else:
        manifest.write_text("{}" if how == "empty" else manifest.read_text()[:300])
    with pytest.raises(DataError, match=r"^\S+/(manifest|request).json [^\n]*$|^'\w+' of \S+/manifest.json [^\n]*$"):
        checked(store, copied)


@pytest.mark.parametrize("name", ["activations/train-000001", "tokens/train-000001", "tokens/eval-000000"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_manifest_without_its_files_is_not_believed(store: Store, copied: Path, name: str, damage: str) -> None:
    shard = copied / f"{name}.safetensors"
    content = shard.read_bytes()
    shard.unlink()
    if damage == "truncated":
        shard.write_bytes(content[:-1])
    reason = "does not agree with the commit" if name.startswith("activations") else "'token_bytes' of"
    with pytest.raises(DataError, match=reason):
        checked(store, copied)
