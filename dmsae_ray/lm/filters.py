"""Tokens whose activations are left out: BOS, other special tokens, attention sinks of high norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FilterResult:
    """Which rows stay.

    Attributes:
        mask: bool [n], True where the row is kept.
        dropped: share of the rows left out, by reason ('bos', 'special', 'high_norm'); a row has one reason, the first.
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
    """Rows to keep of a batch of activations.

    Args:
        tokens: int64 [n].
        x: [n, d_model], activations at these tokens.
        bos_id: leave out this token; None: no such filter.
        special_ids: leave out these tokens.
        max_norm_multiple: leave out rows with a norm above so many times the median norm of the rows that the other
            filters keep (BOS is itself a sink, and must not move the median); None: no such filter.
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
