"""Tokens whose activations are left out: BOS, other special tokens, and attention sinks of high norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FilterResult:
    """Which rows are kept.

    Attributes:
        mask: bool [n], True where the row is kept.
        dropped: share of the rows left out, by reason ('bos', 'special', 'high_norm'); a row counts for its first
            reason only.
    """

    mask: Tensor
    dropped: dict[str, float]

    @property
    def share_dropped(self) -> float:
        """Share of all rows that are left out."""
        return sum(self.dropped.values())


def keep_mask(
    tokens: Tensor,
    x: Tensor,
    *,
    bos_id: int | None = None,
    special_ids: Sequence[int] = (),
    max_norm_multiple: float | None = 10.0,
) -> FilterResult:
    """Return which rows of a batch of activations are kept.

    Args:
        tokens: int64 [n].
        x: [n, d_model], the activations at these tokens.
        bos_id: this token is left out; None: no such filter.
        special_ids: these tokens are left out.
        max_norm_multiple: rows are left out if their norm is above this multiple of the median norm of the rows that
            the other filters keep (BOS is itself a sink and must not move the median); None: no such filter.
    """
    kept = torch.ones_like(tokens, dtype=torch.bool)
    n = max(1, len(tokens))
    dropped: dict[str, float] = {}

    def drop(reason: str, rows: Tensor) -> None:
        nonlocal kept
        dropped[reason] = int((kept & rows).sum()) / n
        kept = kept & ~rows

    if bos_id is not None:
        drop("bos", tokens == bos_id)
    if special_ids:
        drop("special", torch.isin(tokens, torch.tensor(list(special_ids), device=tokens.device)))
    if max_norm_multiple is not None:
        norms = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
        median = norms[kept].median() if bool(kept.any()) else torch.inf
        drop("high_norm", norms > max_norm_multiple * median)
    return FilterResult(kept, dropped)
