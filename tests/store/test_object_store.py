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
from dmsae_ray.store.reader import Store, open_store
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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing yet."""
    monkeypatch.setenv("DMSAE_CACHE", str(tmp_path / "cache"))


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
    experiment = make_experiment()
    remote = prepare(experiment, bucket)
    place = remote.folder / "activations"
    content = place.read("train-000002.safetensors")
    assert content is not None
    place.write("train-000002.safetensors", [content[:-1] + bytes([content[-1] ^ 1])])
    for reading in (lambda: open_store(bucket, experiment, store.key).read("train", 2), remote.verify):
        with pytest.raises(DataError, match=r"s3://.*train-000002.safetensors does not have its checksum"):
            reading()
    place.write("train-000002.safetensors", [content])


def test_processes_of_a_machine_read_a_shard_once_from_s3(
    store: Store, bucket: str, make_experiment: Make, ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(make_experiment(), bucket)
    size = store.commit("train", 0).bytes
    counts = {}
    read: list[str] = []
    copy_to = Folder.copy_to

    def counted(folder: Folder, name: str, *more: Any, **named: Any) -> bool:
        read.append(name)
        return copy_to(folder, name, *more, **named)

    monkeypatch.setattr(Folder, "copy_to", counted)
    for gigabytes in (1.0, 4.5 * size / 1e9, 0.0):  # room for all, for some, for none
        monkeypatch.setenv("DMSAE_CACHE", str(tmp_path / str(gigabytes)))
        experiment = make_experiment(resources__cache_gb=gigabytes)
        read.clear()
        for _ in range(2):
            remote = open_store(bucket, experiment, store.key)  # as another trial's worker does
            batches = zip(Feed(remote, 256, 3).batches(0, 4), Feed(store, 256, 3).batches(0, 4), strict=True)
            assert all(torch.equal(ours, theirs) for ours, theirs in batches)
            for one, other in zip(
                Feed(remote, 256, 3).attribution().parts(), Feed(store, 256, 3).attribution().parts(), strict=True
            ):
                assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        counts[gigabytes] = len(read)
        held = sum(path.stat().st_size for path in tmp_path.glob(f"{gigabytes}/shards/*/*"))
        assert held <= gigabytes * 1e9
    everything, some, none = counts.values()
    assert everything < some < none == 2 * everything


def test_a_copy_that_its_disk_has_changed_is_made_again(
    store: Store, bucket: str, make_experiment: Make, ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(make_experiment(), bucket)
    monkeypatch.setenv("DMSAE_CACHE", str(tmp_path))
    expected = store.read("train", 1)["x"]
    for _ in range(2):
        assert torch.equal(open_store(bucket, make_experiment(), store.key).read("train", 1)["x"], expected)
        (copy,) = tmp_path.glob(f"shards/*/{store.commit('train', 1).checksum}")
        content = copy.read_bytes()
        copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_bucket_that_is_not_there(bucket: str, make_experiment: Make) -> None:
    with pytest.raises(ConfigError, match=r"^output: s3://nowhere\S* cannot be written: [^\n]*$"):
        prepare(make_experiment(), bucket.replace("@stores", "@nowhere").replace("&allow_bucket_creation=true", ""))
