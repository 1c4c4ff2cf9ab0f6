"""Exact quantiles over more tokens than fit in memory: only the largest values of each column are kept."""

import math

import torch
from torch import Tensor


class UpperTail:
    """Keeps the `keep` largest values of each of `columns` columns, over all rows added so far.

    Rows are collected until there are as many as are kept, and then merged by one top-k: the cost is one selection over
    twice the kept values for every `keep` rows. The memory is at most 2 * keep + one addition, times columns. A copy of
    the added values is held, so that a slice of a wide block does not keep the block alive.
    """

    def __init__(self, keep: int, columns: int) -> None:
        self.keep = keep
        self.columns = columns
        self._parts: list[Tensor] = []
        self._held = 0

    def add(self, values: Tensor) -> None:
        """Add the rows of values [n, columns]: any real values without NaN."""
        self._parts.append(values.T.contiguous())
        self._held += len(values)
        if self._held >= 2 * self.keep:
            self._merge()

    def _merge(self) -> None:
        held = torch.cat(self._parts, dim=1)
        if held.shape[1] > self.keep:
            held = held.topk(self.keep, dim=1, sorted=False).values
        self._parts, self._held = [held], held.shape[1]

    def largest(self) -> Tensor:
        """Return the largest values, descending in each column: [min(keep, rows), columns]."""
        self._merge()
        return self._parts[0].sort(dim=1, descending=True).values.T


def tail_size(rows: int, q: float) -> int:
    """Return how many of the largest of `rows` values decide their q-quantile."""
    return rows - math.floor(q * (rows - 1))


def tail_quantile(largest: Tensor, rows: int, q: float) -> Tensor:
    """Return the q-quantile of each column with linear interpolation (torch.quantile's default): float64 [columns].

    Args:
        largest: [tail_size(rows, q), columns], the largest values of each column, descending.
        rows: number of values per column.
        q: the quantile, in [0, 1].
    """
    position = q * (rows - 1)
    below = math.floor(position)
    last = rows - 1 - below
    low = largest[last].double()
    high = largest[max(last - 1, 0)].double()
    return torch.lerp(low, high, position - below)
