"""Model actors of Ray Data: processes that hold the language model and compute the activation shards named to them."""

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
from dmsae_ray.files import Folder, be_patient
from dmsae_ray.harvest.attempts import count_attempt, forget_attempts
from dmsae_ray.harvest.model import open_tap
from dmsae_ray.harvest.shard import compute_shard, pack_shard, write_shard
from dmsae_ray.store import ACTIVATIONS, Commit, Layout, Split, read_tokens, shard_name

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from dmsae_ray.lm import Tap

GROWING = AutoscalingConfig(actor_pool_util_upscaling_threshold=1.0)
"""A pool grows when each actor has one shard on the model and one being packed; by Ray's default it never would."""


@dataclass(frozen=True)
class HarvestJob:
    """What an actor must know. Small and picklable.

    Attributes:
        folder: the store's folder.
        layout: how the store's tokens are cut.
        model: the language model.
        activations: filters and dtype.
        batch_tokens: tokens of one forward pass.
        attempts: the `attempts.Attempts` actor of this harvest; None: attempts are not counted.
    """

    folder: Folder
    layout: Layout
    model: ModelSettings
    activations: ActivationSettings
    batch_tokens: int
    attempts: "ActorHandle[Any] | None" = None


class HarvestActor:
    """A model actor: computes the shards named to it, and writes them to the store."""

    def __init__(self, job: HarvestJob):
        self.job = job
        self._tap: Tap | None = None
        self._full = False
        self._lock = threading.Lock()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Compute and write the shards `split`, `shard` of the batch; return their commits as JSON."""
        be_patient()
        done = [self._make(str(s), int(i)) for s, i in zip(batch["split"], batch["shard"], strict=True)]
        return {"commit": [json.dumps(asdict(commit)) for commit in done]}

    def _make(self, split: str, shard: int) -> Commit:
        content, commit = self.compute(split, shard)
        return write_shard(self.job.folder / ACTIVATIONS, shard_name(split, shard), content, commit)

    def compute(self, split: str, shard: int) -> tuple[bytes, Commit]:
        """Compute a shard; return the bytes of its file, and its commit.

        Raises:
            DataError: an activation is not finite, the tokens cannot be read, or actors died of this shard too often.
        """
        tokens = read_tokens(self.job.folder, self.job.layout, shard_name(split, shard))
        mask = loss_mask(tokens, self.job.layout.bos is not None)
        # One shard at a time on the model; meanwhile another thread of the actor packs and writes the shard before it.
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
        """Return the model: the whole model for gradients, else without the layers above the tap."""
        if self._tap is None or self._full != gradients:
            self._tap, self._full = None, gradients
            self._tap = open_tap(self.job.model, full=gradients)
        return self._tap


def map_shards(
    actor: type[HarvestActor], job: HarvestJob, resources: ResourceSettings, shards: Sequence[tuple[Split, int]]
) -> ray.data.Dataset:
    """Return a Ray Dataset that maps each shard by a pool of actors.

    Args:
        actor: class of the actors.
        job: what each actor must know.
        resources: size of the pool, and resources of an actor.
        shards: the shards; each is the one row of a block of its own.
    """
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
