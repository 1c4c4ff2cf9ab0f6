"""One shard of activations: computed from its tokens, filtered, packed into the bytes of its file, and written."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor

from dmsae_ray.config import ActivationSettings
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, checksum, encode_sealed
from dmsae_ray.store import Commit, quantise, stored_order

if TYPE_CHECKING:
    from dmsae_ray.lm import Tap


@dataclass(frozen=True)
class ActivationShard:
    """Activations of a token shard after filters.

    Attributes:
        tensors: `x` [rows, d_model], and `position` int32 [rows], the flat index into the shard's tokens. In the
            attribution split also `g` [rows, d_model], the gradient of the summed next-token loss at x. For int8 also
            `scale`, `centre` and `spread` of `store.quantise`.
        dropped: number of tokens left out, by reason.
        sum_squares: sum of the rows' squared norms (before they become int8), float64.
    """

    tensors: dict[str, Tensor]
    dropped: dict[str, int]
    sum_squares: float


def gradient_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the dtype in which gradients are stored.

    bfloat16 has the range of float32, but float16 loses gradients below 1e-7, so float32 takes its place.
    """
    return torch.float32 if stored == torch.float16 else stored


def compute_shard(
    tap: "Tap", tokens: Tensor, mask: Tensor, settings: ActivationSettings, *, batch_tokens: int, split: str, shard: int
) -> ActivationShard:
    """Run the model over the contexts of a shard and filter the rows.

    The high-norm filter compares with the median over the whole shard (without BOS positions, if they are dropped), so
    it does not depend on the batch size.

    Args:
        tap: the language model.
        tokens: int64 [n, context].
        mask: bool [n, context], positions with a target (`corpus.loss_mask`).
        settings: filters and dtype.
        batch_tokens: tokens of one forward pass; at least one context is taken.
        split: 'attribution' also computes g, and leaves out rows without a target. Only 'train' becomes int8, so that
            all SAEs are scored and evaluated on the same rows.
        shard: index of the shard; training rows are stored in a random order of their own (`store.stored_order`).

    Raises:
        DataError: an activation is not finite, or the tokenizer does not belong to the model.
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
    # The norms are passed in place of the rows: the filters give the same result, and the rows are not read again.
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
    # An infinite norm is an error, not a high norm to filter out; except at a BOS, which is dropped in any case.
    looked_at = valid if not settings.drop_bos or tap.bos_id is None else valid & (tokens != tap.bos_id)
    bad_tokens = (~torch.isfinite(squares) & looked_at).reshape(-1)
    if g is not None:
        bad_tokens[position[~torch.isfinite(tensors["g"].sum(-1, dtype=torch.float32))]] = True
    bad = int(bad_tokens.sum())
    if bad:
        raise DataError(
            f"{bad} of {int(looked_at.sum())} activations of model '{tap.model_name}' at layer {tap.layer} "
            f"are NaN or infinite in activations.dtype '{settings.dtype}'"
        )
    if settings.dtype == "int8" and split == "train":
        tensors.update(quantise(tensors["x"]))
    return ActivationShard(tensors, dropped, math.fsum(kept.tolist()))


def pack_shard(shard: ActivationShard, tokens: int) -> tuple[bytes, Commit]:
    """Return the bytes of a shard's file, and its commit.

    Args:
        shard: the activations.
        tokens: number of tokens of the shard, before filters.
    """
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
    """Write a shard and then its commit; return the commit."""
    folder.write(f"{name}.safetensors", [content])
    folder.write(f"{name}.json", [encode_sealed(commit)])
    return commit
