"""The files of a store's shards: mapped from a disk, or copied to this machine from an object store."""

import tempfile
from typing import IO

from torch import Tensor

from dmsae_ray.errors import DataError, one_line
from dmsae_ray.files import Folder, NodeCache, checksum
from dmsae_ray.store.commit import Commit
from dmsae_ray.store.layout import Split, shard_name
from dmsae_ray.store.tensor_file import map_file, tensors_in


class ShardFiles:
    """The files in which the tensors of shards are.

    Args:
        folder: where they are.
        cache: keeps copies on this machine, if `folder` is in an object store. Without it each read makes a copy that
            lives as long as its tensors.
    """

    def __init__(self, folder: Folder, cache: NodeCache | None = None) -> None:
        self._folder, self._cache = folder, cache
        self._verified: set[str] = set()

    def place(self, split: Split, shard: int) -> Folder:
        """Return the file of a shard, for messages."""
        return self._folder / f"{shard_name(split, shard)}.safetensors"

    def read(self, split: Split, shard: int, commit: Commit) -> dict[str, Tensor]:
        """Return the tensors of a shard, memory-mapped, so that their memory can be reclaimed.

        The checksum is verified at the first read, and at each copy.

        Raises:
            DataError: the file is missing, truncated, or not what was written; the message names it.
        """
        name = f"{shard_name(split, shard)}.safetensors"
        # Held-out shards are read in every cycle; of the training shards the first ones are as good as any others.
        most = 0 if self._cache is None else self._cache.most_bytes // 2
        try:
            tensors = self._tensors(name, commit, split != "train" or (shard + 1) * commit.bytes <= most)
        except (OSError, ValueError) as error:
            raise DataError(f"{self._folder / name} is not a readable shard: {one_line(error)}") from None
        x = tensors.get("x")
        if x is None or x.shape != (commit.rows, commit.d_model):
            raise DataError(
                f"{self._folder / name} holds x of shape {None if x is None else list(x.shape)}; "
                f"[{commit.rows}, {commit.d_model}] was written"
            )
        return tensors

    def _tensors(self, name: str, commit: Commit, lasting: bool) -> dict[str, Tensor]:
        if self._folder.local is not None:
            return self._map(name, commit)
        if self._cache is not None:
            return self._cached(self._cache, name, commit, lasting)
        with tempfile.TemporaryFile(prefix="dmsae-") as file:
            self._fill(name, commit, file)
            return tensors_in(map_file(file.fileno()), self._folder / name)

    def _map(self, name: str, commit: Commit) -> dict[str, Tensor]:
        path = self._folder.local / name  # type: ignore[operator]
        if not path.exists():
            raise DataError(f"{path} is missing though its commit is there; harvest again to have it made")
        size = path.stat().st_size
        if size != commit.bytes:
            raise DataError(f"{path} is truncated: {size} of {commit.bytes} bytes; harvest again to have it made")
        with open(path, "rb") as file:
            content = map_file(file.fileno())
        if name not in self._verified:
            self._check(name, checksum(content), commit)
            self._verified.add(name)
        return tensors_in(content, self._folder / name)

    def _cached(self, cache: NodeCache, name: str, commit: Commit, lasting: bool) -> dict[str, Tensor]:
        def fill(file: IO[bytes]) -> None:
            self._fill(name, commit, file)
            self._verified.add(name)

        while True:
            with cache.open(commit.checksum, commit.bytes, fill, lasting=lasting) as copy:
                content = map_file(copy.fileno())
            if name in self._verified or checksum(content) == commit.checksum:
                self._verified.add(name)
                return tensors_in(content, self._folder / name)
            cache.drop(commit.checksum)  # its disk has changed it

    def _fill(self, name: str, commit: Commit, file: IO[bytes]) -> None:
        if not self._folder.copy_to(name, file):
            raise DataError(
                f"{self._folder / name} is missing though its commit is there; harvest again to have it made"
            )
        file.flush()
        self._check(name, checksum(map_file(file.fileno())), commit)

    def _check(self, name: str, found: str, commit: Commit) -> None:
        if found != commit.checksum:
            raise DataError(
                f"{self._folder / name} does not have its checksum; delete it and harvest again to have it made"
            )
