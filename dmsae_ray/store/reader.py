"""The reader of a store of activations, which may be complete or still being written."""

import time
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from dmsae_ray.config import ActivationSettings, Experiment
from dmsae_ray.corpus import Contexts, join, loss_mask
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, NodeCache, ReaderClosed, cache_folder
from dmsae_ray.store.commit import Commit, decode_commit, norm_factor
from dmsae_ray.store.identity import store_key
from dmsae_ray.store.layout import ACTIVATIONS, MANIFEST, Layout, Split, shard_name
from dmsae_ray.store.manifest import decode_shards
from dmsae_ray.store.shard_files import ShardFiles
from dmsae_ray.store.timing import TIMING
from dmsae_ray.store.token_shards import read_layout, read_tokens
from dmsae_ray.store.writer import WriterWatch

T = TypeVar("T")
_POLL_SECONDS = (0.05, 2.0)
_ROWS_AT_ONCE = 8192


class Store:
    """Reader of one store. It waits for data that a harvest has yet to write, but never for a dead harvest.

    Attributes:
        folder: folder of the store.
        key: key of the store.
        shuffle_shards: shards in a window of the training order.
        norm_tokens: training tokens behind the norm factor, rounded up to whole shards.
        quantised: whether training rows are int8 (see `store.int8`).
        batch_dtype: dtype of the training rows that `Feed` yields.
    """

    def __init__(
        self,
        folder: Folder,
        key: str,
        settings: ActivationSettings,
        *,
        silence: float = TIMING.silence,
        cache: NodeCache | None = None,
    ):
        self.folder, self.key = folder, key
        self.shuffle_shards, self.norm_tokens = settings.shuffle_shards, settings.norm_tokens
        self.quantised = settings.dtype == "int8"
        self.batch_dtype: torch.dtype = torch.float32 if self.quantised else getattr(torch, settings.dtype)
        self._silence = silence
        self._files = ShardFiles(folder / ACTIVATIONS, cache)
        self._commits: dict[tuple[Split, int], Commit] = {}
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
        """Return the commit of a shard, as soon as it is written.

        Args:
            split: the split.
            shard: index of the shard in its split.
            stopped: called between polls; if it returns True, the wait ends with `ReaderClosed`.

        Raises:
            DataError: there is no such shard, the harvest failed (with its reason), or no harvest writes the store.
            ReaderClosed: `stopped` returned True.
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
        """Return the commits of all shards of a split; wait for them."""
        return [self.commit(split, shard) for shard in range(self.layout.shards(split))]

    @cached_property
    def norm_factor(self) -> float:
        """Root mean square norm of the first training rows, float64; waits for their shards."""
        return norm_factor([self.commit("train", i) for i in range(self.layout.norm_shards(self.norm_tokens))])

    def wait(self, *, whole: bool) -> None:
        """Wait until all is written; or the tokens, and a first shard of activations.

        Raises:
            DataError: the harvest failed (with its reason), or no harvest writes the store.
        """

        def look() -> bool | None:
            return True if self.complete or (not whole and self._begun()) else None

        self._poll(look, "the activations" if whole else "a first shard", longest=1.0)

    def _begun(self) -> bool:
        written = (self.folder / ACTIVATIONS).sizes() if read_layout(self.folder) is not None else ()
        return any(name.endswith(".json") for name in written)

    def rows(self, split: Split) -> int:
        """Return the number of activations of a split; wait for its shards."""
        return sum(commit.rows for commit in self.commits(split))

    def dropped(self, split: Split) -> dict[str, float]:
        """Return the share of a split's tokens that each filter left out, by reason; wait for its shards."""
        commits = self.commits(split)
        total = sum(commit.tokens for commit in commits)
        reasons = sorted({reason for commit in commits for reason in commit.dropped})
        return {reason: sum(commit.dropped.get(reason, 0) for commit in commits) / total for reason in reasons}

    def read(self, split: Split, shard: int, stopped: Callable[[], bool] | None = None) -> dict[str, Tensor]:
        """Return the tensors of a shard (see `harvest.shard.ActivationShard`), memory-mapped; wait for it.

        The checksum is verified at the first read. From an object store the file comes through the machine's cache, or
        a temporary file ($TMPDIR) if there is none.

        Args:
            split: the split.
            shard: index of the shard in its split.
            stopped: see `commit`.

        Raises:
            DataError: the file is missing, truncated, or not what was written; the message names it.
            ReaderClosed: `stopped` returned True.
        """
        return self.read_committed(split, shard, self.commit(split, shard, stopped))

    def read_committed(self, split: Split, shard: int, commit: Commit) -> dict[str, Tensor]:
        """Return the tensors of a shard whose commit is known; otherwise as `read`."""
        return self._files.read(split, shard, commit)

    def eval_tokens(self) -> Tensor:
        """Return the held-out contexts: tokens int64 [n, context]."""
        return torch.from_numpy(self._eval_contexts().tokens).long()

    def eval_loss_mask(self) -> Tensor:
        """Return the positions of `eval_tokens` that have a target, as bool [n, context].

        False before the first token of another document and at the end of a context (see `corpus.loss_mask`).
        """
        return torch.from_numpy(loss_mask(self._eval_contexts(), self.layout.bos is not None))

    def eval_kept(self) -> Tensor:
        """Return the positions of `eval_tokens` that the filters kept, as bool [n, context]; wait for their shards.

        These are the positions whose like training sees: the others are BOS, special tokens and high norms, as the
        store's settings say.
        """
        kept = []
        for shard in range(self.layout.shards("eval")):
            of_shard = torch.zeros(self.commit("eval", shard).tokens, dtype=torch.bool)
            of_shard[self.read("eval", shard)["position"].long()] = True
            kept.append(of_shard)
        return torch.cat(kept).view(-1, self.layout.context)

    def eval_mean(self) -> Tensor:
        """Return the mean of the eval split's activations, float64 [d_model]; wait for their shards."""
        total = torch.zeros(self.d_model, dtype=torch.float64)
        for shard in range(self.layout.shards("eval")):
            for rows in torch.split(self.read("eval", shard)["x"], _ROWS_AT_ONCE):
                total += rows.double().sum(dim=0)
        return total / max(1, self.rows("eval"))

    def eval_rows(self, places: Tensor) -> Tensor:
        """Return some activations of the eval split: float32 [n, d_model], in the order of `places`.

        One shard is mapped at a time; waits for them.

        Args:
            places: int64 [n], positions in the flattened `eval_tokens`, each of them kept (`eval_kept`).

        Raises:
            DataError: a position has no activation.
        """
        out, there, first = torch.empty(len(places), self.d_model), torch.zeros(len(places), dtype=torch.bool), 0
        for shard in range(self.layout.shards("eval")):
            size = self.commit("eval", shard).tokens
            wanted = ((places >= first) & (places < first + size)).nonzero().view(-1)
            if len(wanted):
                tensors = self.read("eval", shard)
                row_of = torch.full((size,), -1)
                row_of[tensors["position"].long()] = torch.arange(len(tensors["position"]))
                rows = row_of[places[wanted] - first]
                wanted, rows = wanted[rows >= 0], rows[rows >= 0]
                out[wanted], there[wanted] = tensors["x"][rows].float(), True
            first += size
        if not bool(there.all()):
            raise DataError(f"store {self.folder}: {int((~there).sum())} of these tokens have no activation")
        return out

    def _eval_contexts(self) -> Contexts:
        names = [shard_name("eval", shard) for shard in range(self.layout.shards("eval"))]
        return join([read_tokens(self.folder, self.layout, name) for name in names])

    def verify(self) -> None:
        """Read every shard and compare it with its checksum.

        Raises:
            DataError: a shard differs or holds NaN or an infinity; for the first such shard.
        """
        stored = ShardFiles(self.folder / ACTIVATIONS)  # not this machine's copies
        for split, shard in self.layout.all_shards():
            read_tokens(self.folder, self.layout, shard_name(split, shard))
            commit = self.commit(split, shard)
            check_finite_shard(stored.read(split, shard, commit), stored.place(split, shard))

    def _read_manifest(self) -> None:
        if self._manifest_read:
            return
        content = self.folder.read(MANIFEST)
        if content is None:
            return
        for split, commits in decode_shards(content, self.folder / MANIFEST).items():
            self._commits.update({(split, shard): commit for shard, commit in enumerate(commits)})
        self._manifest_read = True

    def _poll(
        self,
        look: Callable[[], T | None],
        what: str,
        stopped: Callable[[], bool] | None = None,
        longest: float = _POLL_SECONDS[1],
    ) -> T:
        watch = WriterWatch(self.folder, self._silence)
        delay = _POLL_SECONDS[0]
        while True:
            alive = watch.alive()  # before `look`: a harvest that ends in between has written what is looked for
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
    """Check that no floating-point tensor of a shard holds NaN or an infinity.

    Raises:
        DataError: one does; the message names the tensor and `where`.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        for start in range(0, len(tensor), 1 << 16):
            if not bool(torch.isfinite(tensor[start : start + (1 << 16)]).all()):
                raise DataError(f"NaN or infinity in activations: tensor '{name}' of {where}")


def open_store(root: str, experiment: Experiment, key: str | None = None) -> Store:
    """Return a reader of the store that an experiment asks for.

    The store can be opened before it exists and while it is written; the reader waits for data that is missing.

    Args:
        root: folder of stores, as path or URI.
        experiment: the settings.
        key: key of the store. None computes it, which works only where a local model and corpus can be read: on the
            driver's machine. Give it elsewhere.
    """
    key = key or store_key(experiment)
    folder, most = Folder(str(root)) / key, experiment.resources.cache_gb
    cache = None
    if folder.local is None and most != 0:
        cache = NodeCache(cache_folder() / "shards", None if most is None else int(most * 1e9))
    return Store(folder, key, experiment.activations, cache=cache)
