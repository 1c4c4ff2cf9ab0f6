"""Model actors: processes that hold the language model and make shards of activations by name (Ray Data)."""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.data
import torch
from ray.data.context import AutoscalingConfig

from dmsae_ray.config import ActivationSettings, ModelSettings, ResourceSettings
from dmsae_ray.corpus import loss_mask
from dmsae_ray.files import Folder
from dmsae_ray.harvest.attempts import count_attempt, forget_attempts
from dmsae_ray.harvest.model import open_tap
from dmsae_ray.harvest.shard import compute_shard, pack_shard, write_shard
from dmsae_ray.store import ACTIVATIONS, Commit, Layout, Split, read_tokens, shard_name

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from dmsae_ray.lm import Tap

GROWING = AutoscalingConfig(actor_pool_util_upscaling_threshold=1.0)
"""A pool grows when each of its actors has a shard on the model and one being packed; by default it never would."""


@dataclass(frozen=True)
class HarvestJob:
    """What an actor must know. Small and picklable."""

    folder: Folder
    layout: Layout
    model: ModelSettings
    activations: ActivationSettings
    batch_tokens: int
    attempts: "ActorHandle[Any] | None" = None
    """`attempts.Attempts` of this harvest."""


class HarvestActor:
    """A model actor: makes shards by name."""

    def __init__(self, job: HarvestJob):
        self.job = job
        self._tap: Tap | None = None
        self._full = False
        self._lock = threading.Lock()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Make the shards `split`, `shard` of the batch and return their commits as JSON."""
        done = [self._make(str(s), int(i)) for s, i in zip(batch["split"], batch["shard"], strict=True)]
        return {"commit": [json.dumps(asdict(commit)) for commit in done]}

    def _make(self, split: str, shard: int) -> Commit:
        content, commit = self.compute(split, shard)
        return write_shard(self.job.folder / ACTIVATIONS, shard_name(split, shard), content, commit)

    def compute(self, split: str, shard: int) -> tuple[bytes, Commit]:
        """A shard as the bytes of its file, and its commit."""
        tokens = read_tokens(self.job.folder, self.job.layout, shard_name(split, shard))
        mask = loss_mask(tokens, self.job.layout.bos is not None)
        # One shard at a time on the model; another thread of the actor packs and writes the shard before meanwhile.
        with self._lock:
            count_attempt(self.job.attempts, shard_name(split, shard))
            computed = compute_shard(
                self._model(split == "attribution"),
                torch.from_numpy(tokens.tokens.astype(np.int64)),
                torch.from_numpy(mask),
                self.job.activations,
                batch_tokens=self.job.batch_tokens,
                split=split,
                shard=shard,
            )
        packed = pack_shard(computed, tokens.tokens.size)
        forget_attempts(self.job.attempts, shard_name(split, shard))
        return packed

    def _model(self, gradients: bool) -> "Tap":
        """The model: whole for gradients, without the layers above the tap for activations."""
        if self._tap is None or self._full != gradients:
            self._tap, self._full = None, gradients
            self._tap = open_tap(self.job.model, full=gradients)
        return self._tap


def map_shards(
    actor: type[HarvestActor], job: HarvestJob, resources: ResourceSettings, shards: Sequence[tuple[Split, int]]
) -> ray.data.Dataset:
    """What a pool of `actor` gives for each of the shards; a shard is one row of a block of its own."""
    rows: list[dict[str, Any]] = [{"split": split, "shard": shard} for split, shard in shards]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        actor,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            min_size=min(resources.model_actors_min, len(rows)),
            max_size=min(resources.model_actors_max, len(rows)),
            max_tasks_in_flight_per_actor=2,
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        num_cpus=resources.cpus_per_model_actor,
        num_gpus=resources.gpus_per_model_actor or None,
    )
