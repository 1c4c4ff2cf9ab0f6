"""A store as the source of data of `distill.run_cycles`."""

import hashlib
import json
from collections.abc import Iterator

import torch
from torch import Tensor

from dmsae_ray.errors import DataError
from dmsae_ray.feed.feed import Feed
from dmsae_ray.feed.shards import ShardSource
from dmsae_ray.store import ACTIVATIONS, ORDER_VERSION, Split, Store, check_finite, shard_name


class StoreSource:
    """Implements `distill.DataSource` for one worker; training shards come from the store, or from `shards`.

    Attributes:
        fingerprint: hash of all that determines the batches and the norm factor: store, window, tokens behind the
            factor, batch size, seed.
    """

    def __init__(
        self,
        store: Store,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shards: ShardSource | None = None,
    ):
        self.store, self.batch_size = store, batch_size
        self.feed = Feed(store, batch_size, seed, rank, world, shards)
        identity = [ORDER_VERSION, store.key, store.shuffle_shards, store.norm_tokens, batch_size, seed]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def d_model(self) -> int:
        """Width of an activation."""
        return self.store.d_model

    @property
    def norm_factor(self) -> float:
        """What a trainer divides activations by: their root mean square norm."""
        return self.store.norm_factor

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """This worker's share of steps `start`..`stop`-1: raw [share, d_model], in the store's dtype (see `Feed`)."""
        return self.feed.batches(start, stop)

    def attribution(self) -> tuple[Tensor, Tensor]:
        """All held-out pairs (x, g), each [N, d_model] in the stored dtype; memory-mapped if they are one shard."""
        parts = list(self._shards("attribution"))
        if any("g" not in part for part in parts):
            raise DataError(f"store {self.store.folder}: an attribution shard has no gradients 'g'; delete the store")
        x, g = [part["x"] for part in parts], [part["g"] for part in parts]
        if not any(len(part) for part in x):
            raise DataError("the attribution set is empty: every token was dropped by the filters")
        return (x[0], g[0]) if len(parts) == 1 else (torch.cat(x), torch.cat(g))

    def evaluation(self) -> Iterator[Tensor]:
        """Held-out activations in batches: raw float32 [at most batch_size, d_model]."""
        for part in self._shards("eval"):
            for start in range(0, len(part["x"]), self.batch_size):
                yield part["x"][start : start + self.batch_size].to(torch.float32, copy=True)

    def _shards(self, split: Split) -> Iterator[dict[str, Tensor]]:
        for shard in range(self.store.layout.shards(split)):
            tensors = self.store.read(split, shard)
            check_finite(tensors, f"{self.store.folder / ACTIVATIONS / shard_name(split, shard)}.safetensors")
            yield tensors
