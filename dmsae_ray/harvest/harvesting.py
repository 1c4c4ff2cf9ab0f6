"""Activations of token shards, computed by an autoscaling pool of model actors (Ray Data) and written by them.

One row of the Ray Dataset is one shard's name. The actor reads the tokens, runs the language model, filters, writes
the shard and then its commit; only the name and the commit's counts pass through Ray. A shard is the same bytes
whoever writes it, and when: an actor that dies, or a second harvest of the same store, changes nothing.
"""

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.data
import safetensors.torch
import torch
from ray.data.context import AutoscalingConfig
from torch import Tensor

from dmsae_ray.config import Activations, Experiment, LanguageModel, Resources
from dmsae_ray.corpus import loss_mask
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, checksum
from dmsae_ray.harvest.attempts import begin, made, start_attempts
from dmsae_ray.harvest.model import open_tap
from dmsae_ray.harvest.progress import Meter, Progress
from dmsae_ray.harvest.ray_data import first_error, free_actors, quiet_context
from dmsae_ray.store import (
    ACTIVATIONS,
    TOKENS,
    Commit,
    Commits,
    Layout,
    Split,
    encode,
    quantise,
    read_commits,
    read_tokens,
    shard_name,
    stored_order,
)

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from dmsae_ray.lm import Tap

GROWING = AutoscalingConfig(actor_pool_util_upscaling_threshold=1.0)
"""A pool grows when each of its actors has a shard on the model and one being packed; by default it never would."""

_ROUNDS = 3  # times that shards which were reported but cannot be found are made again


@dataclass(frozen=True)
class Shard:
    """Activations of a token shard after filters.

    Attributes:
        tensors: `x` [rows, d_model] and `position` int32 [rows], flat index into the shard's tokens; in the
            attribution split `g` [rows, d_model] too, the gradient of the summed next-token loss at x; for int8
            `quantised.quantise`'s scales.
        dropped: tokens left out, by reason.
        sum_squares: sum of the rows' squared norms (before they become int8), float64.
    """

    tensors: dict[str, Tensor]
    dropped: dict[str, int]
    sum_squares: float


def gradient_dtype(stored: torch.dtype) -> torch.dtype:
    """Dtype that gradients are stored in: bfloat16 has float32's range, float16 loses gradients below 1e-7."""
    return torch.float32 if stored == torch.float16 else stored


def compute_shard(
    tap: "Tap", tokens: Tensor, mask: Tensor, settings: Activations, *, batch_tokens: int, split: str, shard: int
) -> Shard:
    """Run the model over a shard's contexts and filter the rows.

    The high-norm filter compares with the median over the whole shard (BOS positions apart, if they are dropped), so
    that it does not depend on the batch size.

    Args:
        tap: the language model.
        tokens: int64 [n, context].
        mask: bool [n, context], positions with a target (`packing.loss_mask`).
        settings: filters and dtype.
        batch_tokens: tokens of one forward pass, at least one context.
        split: 'attribution' also gives g, and leaves out rows without a target; only 'train' becomes int8, so that all
            SAEs are scored and evaluated on the same rows.
        shard: its index; training rows are stored in a random order of their own (`order.stored_order`).

    Raises:
        DataError: an activation is not finite.
    """
    from dmsae_ray.lm import keep_mask

    n, context = tokens.shape
    if int(tokens.max()) >= tap.vocab_size:
        raise DataError(
            f"model '{tap.model_name}' has {tap.vocab_size} token embeddings, and its tokenizer gave token "
            f"{int(tokens.max())}: they are not of one model"
        )
    gradients = split == "attribution"
    dtype = torch.bfloat16 if settings.dtype == "int8" else getattr(torch, settings.dtype)
    x = torch.empty(n, context, tap.d_model, dtype=dtype)
    g = torch.empty(n, context, tap.d_model, dtype=gradient_dtype(dtype)) if gradients else None
    valid = torch.ones(n, context, dtype=torch.bool)
    squares = torch.empty(n, context, dtype=torch.float64)
    step = max(1, batch_tokens // context)
    for rows in (slice(i, min(i + step, n)) for i in range(0, n, step)):
        if g is None:
            h = tap.activations(tokens[rows].to(tap.device))
        else:
            h, grad, target = tap.gradients(tokens[rows].to(tap.device), mask[rows].to(tap.device))
            g[rows], valid[rows] = grad.to(g.dtype), target
        h = h.to(dtype)
        x[rows] = h
        squares[rows] = h.double().square().sum(-1)
    # The norms stand for the rows: the rule is the same, and a shard is not read a second time.
    kept_by_filters = keep_mask(
        tokens.reshape(-1),
        squares.sqrt().float().reshape(-1, 1),
        bos_id=tap.bos_id if settings.drop_bos else None,
        special_ids=[i for i in tap.special_ids if i != tap.bos_id] if settings.drop_special else (),
        max_norm_multiple=settings.max_norm_multiple,
    )
    keep = kept_by_filters.mask & valid.reshape(-1)
    dropped = {reason: round(share * tokens.numel()) for reason, share in kept_by_filters.dropped.items()}
    dropped["no_target"] = int((kept_by_filters.mask & ~keep).sum())
    position = keep.nonzero().squeeze(1)
    if split == "train":
        position = position[torch.from_numpy(stored_order(len(position), shard))]
    tensors = {"x": x.reshape(-1, tap.d_model)[position], "position": position.to(torch.int32)}
    if g is not None:
        tensors["g"] = g.reshape(-1, tap.d_model)[position]
    kept = squares.reshape(-1)[position]
    # An infinite norm must not pass for a high one; that of a BOS, which is dropped whatever it is, may.
    looked_at = valid if not settings.drop_bos or tap.bos_id is None else valid & (tokens != tap.bos_id)
    bad = int((~torch.isfinite(squares) & looked_at).sum())
    if g is not None:
        bad += int((~torch.isfinite(tensors["g"].sum(-1, dtype=torch.float32))).sum())
    if bad:
        raise DataError(
            f"{bad} of {int(looked_at.sum())} activations of model '{tap.model_name}' at layer {tap.layer} "
            f"are NaN or infinite in activations.dtype '{settings.dtype}'"
        )
    if settings.dtype == "int8" and split == "train":
        tensors.update(quantise(tensors["x"]))
    return Shard(tensors, dropped, math.fsum(kept.tolist()))


@dataclass(frozen=True)
class Job:
    """What an actor must know. Small and picklable."""

    folder: Folder
    layout: Layout
    model: LanguageModel
    activations: Activations
    batch_tokens: int
    attempts: "ActorHandle[Any] | None" = None
    """`attempts.Attempts` of this harvest."""


class ShardWriter:
    """A model actor: makes shards by name."""

    def __init__(self, job: Job):
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
            begin(self.job.attempts, shard_name(split, shard))
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
        made(self.job.attempts, shard_name(split, shard))
        return packed

    def _model(self, gradients: bool) -> "Tap":
        """The model: whole for gradients, without the layers above the tap for activations."""
        if self._tap is None or self._full != gradients:
            self._tap, self._full = None, gradients
            self._tap = open_tap(self.job.model, full=gradients)
        return self._tap


def pack_shard(shard: Shard, tokens: int) -> tuple[bytes, Commit]:
    """A shard of so many tokens before filters as the bytes of its file, and its commit."""
    content = safetensors.torch.save(shard.tensors)
    x = shard.tensors["x"]
    return content, Commit(
        rows=int(x.shape[0]),
        tokens=tokens,
        dropped=shard.dropped,
        sum_squares=shard.sum_squares,
        d_model=int(x.shape[1]),
        checksum=checksum(content),
        bytes=len(content),
    )


def write_shard(folder: Folder, name: str, content: bytes, commit: Commit) -> Commit:
    """Write a shard and, after it, its commit."""
    folder.write(f"{name}.safetensors", [content])
    folder.write(f"{name}.json", [encode(commit)])
    return commit


def check_space(folder: Folder, layout: Layout, settings: Activations, missing: list[tuple[Split, int]]) -> None:
    """See that a local disk holds what is still to be written.

    Raises:
        DataError: it does not; names the need and what is free.
    """
    free = folder.free_bytes()
    x_bytes = 4 if settings.dtype == "float32" else 2
    bytes_of = {
        "eval": x_bytes,
        "attribution": x_bytes + (2 if settings.dtype in ("bfloat16", "int8") else 4),
        "train": 1 if settings.dtype == "int8" else x_bytes,
    }
    need = sum(layout.shard_tokens(split, shard) * (layout.d_model * bytes_of[split] + 8) for split, shard in missing)
    tokens = 4 * sum(layout.shard_tokens(*item) for item in layout.all_shards())
    need += max(0, tokens - sum((folder / TOKENS).sizes().values()))
    if free is not None and need > free:
        raise DataError(
            f"output {folder} needs {_bytes(need)} more for tokens and activations, the disk has {_bytes(free)} free; "
            "ask for fewer corpus.tokens or another output"
        )


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def harvest(
    folder: Folder, experiment: Experiment, layout: Layout, *, progress: Callable[[Progress], None] | None = None
) -> Commits:
    """Make the shards to be stored that are missing; returns the commits of all that are there.

    Raises:
        DataError: disk too small, non-finite activations, or an actor's error in one line.
        ConfigError: the model cannot be loaded, or the output not written.
    """
    # The split that needs the whole model comes first, so that an actor changes models once.
    wanted = sorted(layout.stored_shards(experiment.activations), key=lambda item: item[0] != "attribution")
    done = read_commits(folder, layout)
    total = sum(layout.shard_tokens(*item) for item in wanted)
    meter = Meter("activations", total, progress, done=sum(done[item].tokens for item in wanted if item in done))
    batch = experiment.resources.model_batch_tokens
    for _ in range(_ROUNDS):
        missing = [item for item in wanted if item not in done]
        if not missing:
            return done
        job = Job(folder, layout, experiment.model, experiment.activations, batch, start_attempts())
        check_space(folder, layout, experiment.activations, missing)
        with quiet_context(preserve_order=False, autoscaling_config=GROWING), first_error("harvest"):
            for row in computed_by_actors(ShardWriter, job, experiment.resources, missing).iter_rows():
                commit = json.loads(row["commit"])
                meter.add(commit["tokens"], commit["bytes"])
        free_actors()
        done = read_commits(folder, layout)
    raise DataError(
        f"output {folder}: shards that model actors wrote cannot be seen by the driver; on several machines `output` "
        "must be a folder that all share, or an object store"
    )


def computed_by_actors(
    actor: type[ShardWriter], job: Job, resources: Resources, shards: Sequence[tuple[Split, int]]
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
