"""A store in S3, through a server on loopback: written by model actors, read by a feed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dmsae_ray.config.experiment import Experiment
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.feed.feed import Feed
from dmsae_ray.files.folder import Folder, filesystem
from dmsae_ray.store.reader import Store
from tests.optional import optional
from tests.s3_server import s3_server
from tests.small_store import contents, prepare

optional("moto.server")

Make = Callable[..., Experiment]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URI of an empty bucket."""
    with s3_server() as options:
        uri = f"s3://key:secret@stores?{options}"
        system, path = filesystem(uri)
        system.create_dir(path)
        yield uri


def test_files(bucket: str) -> None:
    folder = Folder(bucket) / "some" / "place"
    assert folder.read("x") is None and folder.sizes() == {} and folder.local is None and folder.free_bytes() is None
    folder.write("x", [b"one", b"two"])
    assert folder.read("x") == b"onetwo" and folder.sizes() == {"x": 6} and folder.size("x") == 6
    folder.delete("x")
    assert folder.size("x") is None
    assert "secret" not in str(folder)


def test_a_harvest_into_s3_is_the_same_store(
    store: Store, stores: Path, bucket: str, tmp_path: Path, make_experiment: Make, ray_cluster: Any
) -> None:
    remote = prepare(make_experiment(), bucket)
    for name, content in contents(stores / store.key).items():
        folder, _, file = name.rpartition("/")
        place = remote.folder / folder if folder else remote.folder
        assert place.read(file) == content, name
    ours, theirs = Feed(remote, 256, 3).batches(0, 4), Feed(store, 256, 3).batches(0, 4)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    remote.verify()


def test_damage_in_s3_is_found(store: Store, bucket: str, make_experiment: Make, ray_cluster: Any) -> None:
    remote = prepare(make_experiment(), bucket)
    place = remote.folder / "activations"
    content = place.read("train-000002.safetensors")
    assert content is not None
    place.write("train-000002.safetensors", [content[:-1] + bytes([content[-1] ^ 1])])
    with pytest.raises(DataError, match=r"s3://.*train-000002.safetensors does not have its checksum"):
        remote.read("train", 2)
    place.write("train-000002.safetensors", [content])


def test_a_bucket_that_is_not_there(bucket: str, make_experiment: Make) -> None:
    with pytest.raises(ConfigError, match=r"^output: s3://nowhere\S* cannot be written: [^\n]*$"):
        prepare(make_experiment(), bucket.replace("@stores", "@nowhere").replace("&allow_bucket_creation=true", ""))
