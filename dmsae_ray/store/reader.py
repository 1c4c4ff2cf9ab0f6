"""A store of activations, as its readers see it: complete, or still being written."""

import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from dmsae_ray.config import ActivationSettings, Experiment
from dmsae_ray.corpus import Contexts, join, loss_mask
from dmsae_ray.errors import DataError, one_line
from dmsae_ray.files import Folder, ReaderClosed, checksum
from dmsae_ray.store.commit import Commit, decode_commit, norm_factor
from dmsae_ray.store.identity import store_key
from dmsae_ray.store.layout import ACTIVATIONS, MANIFEST, Layout, Split, shard_name
from dmsae_ray.store.manifest import decode_shards
from dmsae_ray.store.tensor_file import map_file, tensors_in
from dmsae_ray.store.timing import TIMING
from dmsae_ray.store.token_shards import read_layout, read_tokens
from dmsae_ray.store.writer import WriterWatch

T = TypeVar("T")
_POLL_SECONDS = (0.05, 2.0)


class Store:
    """Reader of one store. It waits for what a harvest has yet to write, but never for a dead one.

    Attributes:
        folder: where the store is.
        key: its address.
        shuffle_shards: shards in a window of the training order.
        norm_tokens: training tokens behind the norm factor, rounded up to whole shards.
        quantised: training rows are int8 (see `quantised`).
        batch_dtype: of training rows as `Feed` gives them.
    """

    def __init__(self, folder: Folder, key: str, settings: ActivationSettings, *, silence: float = TIMING.silence):
        self.folder, self.key = folder, key
        self.shuffle_shards, self.norm_tokens = settings.shuffle_shards, settings.norm_tokens
        self.quantised = settings.dtype == "int8"
        self.batch_dtype: torch.dtype = torch.float32 if self.quantised else getattr(torch, settings.dtype)
        self._silence = silence
        self._commits: dict[tuple[Split, int], Commit] = {}
        self._verified: set[str] = set()
        self._manifest_read = False

    @cached_property
    def layout(self) -> Layout:
        """How the tokens are cut; waits until they are written."""
        return self._poll(lambda: read_layout(self.folder), "the tokens")

    @property
    def d_model(self) -> int:
        """Width of an activation."""
        return self.layout.d_model

    @property
    def complete(self) -> bool:
        """Whether the whole store is written."""
        return self._manifest_read or self.folder.size(MANIFEST) is not None

    def commit(self, split: Split, shard: int, stopped: Callable[[], bool] | None = None) -> Commit:
        """The commit of a shard, as soon as it is there.

        Args:
            split: which split.
            shard: its index.
            stopped: asked between polls; true gives up the wait with `ReaderClosed`.

        Raises:
            DataError: the harvest failed (with its reason), or nobody writes the store.
        """
        if not 0 <= shard < self.layout.shards(split):
            raise DataError(f"store {self.folder} has {self.layout.shards(split)} '{split}' shards, not shard {shard}")
        item = (split, shard)
        if item not in self._commits:
            self._read_manifest()
        if item not in self._commits:
            name = shard_name(split, shard)
            place = self.folder / ACTIVATIONS

            def look() -> Commit | None:
                content = place.read(f"{name}.json")
                return None if content is None else decode_commit(content, place / f"{name}.json")

            self._commits[item] = self._poll(look, f"shard {name}", stopped)
        return self._commits[item]

    def commits(self, split: Split) -> list[Commit]:
        """Commits of all shards of a split; waits for them."""
        return [self.commit(split, shard) for shard in range(self.layout.shards(split))]

    @cached_property
    def norm_factor(self) -> float:
        """Root mean square norm of the first training rows, float64; waits for their shards."""
        return norm_factor([self.commit("train", i) for i in range(self.layout.norm_shards(self.norm_tokens))])

    def rows(self, split: Split) -> int:
        """Activations of a split."""
        return sum(commit.rows for commit in self.commits(split))

    def dropped(self, split: Split) -> dict[str, float]:
        """Share of a split's tokens that each filter left out."""
        commits = self.commits(split)
        total = sum(commit.tokens for commit in commits)
        reasons = sorted({reason for commit in commits for reason in commit.dropped})
        return {reason: sum(commit.dropped.get(reason, 0) for commit in commits) / total for reason in reasons}

    def read(self, split: Split, shard: int, stopped: Callable[[], bool] | None = None) -> dict[str, Tensor]:
        """Tensors of a shard (see `harvest.Shard`), memory-mapped; checked at first read.

        From an object store they come by way of a temporary file ($TMPDIR).

        Raises:
            DataError: the file is missing, truncated, or not what was written; names it.
        """
        return self.read_committed(split, shard, self.commit(split, shard, stopped))

    def read_committed(self, split: Split, shard: int, commit: Commit) -> dict[str, Tensor]:
        """As `read`, for whoever has the shard's commit."""
        name = f"{shard_name(split, shard)}.safetensors"
        place = self.folder / ACTIVATIONS
        try:
            tensors = self._map(place, name, commit) if place.local is not None else self._fetch(place, name, commit)
        except (OSError, ValueError) as error:
            raise DataError(f"{place / name} is not a readable shard: {one_line(error)}") from None
        x = tensors.get("x")
        if x is None or x.shape != (commit.rows, self.d_model):
            shape = None if x is None else list(x.shape)
            raise DataError(f"{place / name} holds x of shape {shape}; [{commit.rows}, {self.d_model}] was written")
        return tensors

    def eval_tokens(self) -> Tensor:
        """Held-out contexts: tokens int64 [n, context]."""
        return torch.from_numpy(self._eval_contexts().tokens).long()

    def eval_loss_mask(self) -> Tensor:
        """Positions of `eval_tokens` with a target: bool [n, context], False before another document and at the end."""
        return torch.from_numpy(loss_mask(self._eval_contexts(), self.layout.bos is not None))

    def _eval_contexts(self) -> Contexts:
        names = [shard_name("eval", shard) for shard in range(self.layout.shards("eval"))]
        return join([read_tokens(self.folder, self.layout, name) for name in names])

    def verify(self) -> None:
        """Read every shard there is and compare it with its checksum; raises DataError for the first that differs."""
        for split, shard in self.layout.all_shards():
            name = shard_name(split, shard)
            read_tokens(self.folder, self.layout, name)
            self._verified.discard(f"{name}.safetensors")
            check_finite_shard(self.read(split, shard), self.folder / ACTIVATIONS / f"{name}.safetensors")

    def _map(self, place: Folder, name: str, commit: Commit) -> dict[str, Tensor]:
        path = place.local / name  # type: ignore[operator]
        if not path.exists():
            raise DataError(f"{path} is missing though its commit is there; harvest again to have it made")
        size = path.stat().st_size
        if size != commit.bytes:
            raise DataError(f"{path} is truncated: {size} of {commit.bytes} bytes; harvest again to have it made")
        with open(path, "rb") as file:
            content = map_file(file.fileno())
        if name not in self._verified:
            self._check(checksum(content), commit, place / name)
            self._verified.add(name)
        return tensors_in(content, place / name)

    def _fetch(self, place: Folder, name: str, commit: Commit) -> dict[str, Tensor]:
        """Bring a shard to an unnamed temporary file, which lives as long as its tensors: memory can be reclaimed."""
        with tempfile.TemporaryFile(prefix="dmsae-") as file:
            if not place.copy_to(name, file):
                raise DataError(f"{place / name} is missing though its commit is there; harvest again to have it made")
            file.flush()
            content = map_file(file.fileno())
        self._check(checksum(content), commit, place / name)
        return tensors_in(content, place / name)

    @staticmethod
    def _check(found: str, commit: Commit, where: object) -> None:
        if found != commit.checksum:
            raise DataError(f"{where} does not have its checksum; delete it and harvest again to have it made")

    def _read_manifest(self) -> None:
        if self._manifest_read:
            return
        content = self.folder.read(MANIFEST)
        if content is None:
            return
        for split, commits in decode_shards(content, self.folder / MANIFEST).items():
            self._commits.update({(split, shard): commit for shard, commit in enumerate(commits)})
        self._manifest_read = True

    def _poll(self, look: Callable[[], T | None], what: str, stopped: Callable[[], bool] | None = None) -> T:
        watch = WriterWatch(self.folder, self._silence)
        delay, longest = _POLL_SECONDS
        while True:
            alive = watch.alive()  # asked before looking: a harvest that ends in between has written what we look for
            found = look()
            if found is not None:
                return found
            reason = watch.failure()
            if reason is not None:
                raise DataError(f"store {self.folder}: {what} will not come, the harvest failed: {reason}")
            if not alive:
                raise DataError(f"store {self.folder}: {what} is not there and no harvest is writing it")
            if stopped is not None and stopped():
                raise ReaderClosed
            time.sleep(delay)
            delay = min(2 * delay, longest)


def check_finite_shard(tensors: dict[str, Tensor], where: object) -> None:
    """Raise DataError if a floating tensor holds NaN or an infinity."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        for start in range(0, len(tensor), 1 << 16):
            if not bool(torch.isfinite(tensor[start : start + (1 << 16)]).all()):
                raise DataError(f"NaN or infinity in activations: tensor '{name}' of {where}")


def open_store(root: str, experiment: Experiment, key: str | None = None) -> Store:
    """Reader of the store that the experiment asks for, in the folder of stores `root` (path or URI).

    It can be opened before and while the store is written; what is not there yet is waited for. Its `key` is found
    where a local model and corpus can be looked at, on the driver's machine; elsewhere it has to be given.
    """
    key = key or store_key(experiment)
    return Store(Folder(str(root)) / key, key, experiment.activations)
