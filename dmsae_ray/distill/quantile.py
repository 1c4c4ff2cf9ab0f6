"""Exact quantiles over more tokens than fit in memory: only the largest values of each column are kept."""

import math

import torch
from torch import Tensor


class UpperTail:
    """Keeps the `keep` largest values of each of `columns` columns, over all rows added so far.

    Rows are collected until there are as many as are kept, and then reduced by one top-k: the cost is one selection
    over twice the kept values for every `keep` rows. The memory is at most 2 * keep + one addition, times columns. A
    copy of the added values is held, so that a slice of a wide block does not keep the block alive.

    Workers that each read a part of the rows hold a collector each, which are merged by `merge`: the result is that of
    one collector over all rows. A part may hold all the largest values, so that each worker keeps as many as all rows
    ask for, `tail_size(all rows, q)`: the number of all rows is known before the first is read. A worker with fewer
    rows than that holds its rows.

    Attributes:
        keep: how many values of each column are kept.
        columns: number of columns.
        rows: number of rows added so far, those of merged collectors too.
    """

    def __init__(self, keep: int, columns: int) -> None:
        self.keep = keep
        self.columns = columns
        self.rows = 0
        self._parts: list[Tensor] = []
        self._held = 0

    def add(self, values: Tensor) -> None:
        """Add the rows of values [n, columns]: any real values without NaN."""
        self.rows += len(values)
        self._hold(values.T.contiguous())

    def merge(self, other: "UpperTail") -> None:
        """Add all rows that another collector was given, which stays as it is.

        For a moment up to 3 * keep values of each column are held, and the other's.

        Args:
            other: a collector of other rows, which keeps as many of as many columns; in memory of the same device.

        Raises:
            ValueError: it keeps another number of values, or has other columns.
        """
        if (other.keep, other.columns) != (self.keep, self.columns):
            raise ValueError(
                f"tails: {other.keep} values of {other.columns} columns cannot be merged into {self.keep} of "
                f"{self.columns}; both must keep what all rows ask for"
            )
        if other.rows:
            self._hold(other._reduced())
        self.rows += other.rows

    def _hold(self, part: Tensor) -> None:
        self._parts.append(part)
        self._held += part.shape[1]
        if self._held >= 2 * self.keep:
            self._reduce()

    def _reduced(self) -> Tensor:
        held = torch.cat(self._parts, dim=1)
        return held.topk(self.keep, dim=1, sorted=False).values if held.shape[1] > self.keep else held

    def _reduce(self) -> None:
        held = self._reduced()
        self._parts, self._held = [held], held.shape[1]

    def largest(self) -> Tensor:
        """Return the largest values, descending in each column: [min(keep, rows), columns]."""
        self._reduce()
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
