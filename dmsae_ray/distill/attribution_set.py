"""The attribution set: held-out pairs (x, g), read part by part, so that memory does not grow with their number."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from dmsae_ray.errors import DataError


class AttributionSet(Protocol):
    """Pairs (x, g) of tokens in a fixed order."""

    def __len__(self) -> int:
        """Return the number of pairs n."""

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all pairs in parts (x, g), each [n_i, d_model], raw, of any float dtype; each call begins anew."""


@dataclass(frozen=True, eq=False)
class TensorPairs:
    """An attribution set of two tensors.

    Attributes:
        x: [n, d_model], raw activations of any float dtype, possibly memory-mapped.
        g: [n, d_model], the gradients dCE/dx at them.
    """

    x: Tensor
    g: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See `AttributionSet`."""
        yield self.x, self.g


@dataclass(frozen=True, eq=False)
class Stretch:
    """A stretch of an attribution set, as an attribution set of its own.

    Attributes:
        pairs: the whole set.
        first: its first pair.
        stop: the pair behind its last.
    """

    pairs: AttributionSet
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See `AttributionSet`."""
        at = 0
        for x, g in self.pairs.parts():
            first, stop = max(self.first - at, 0), min(self.stop - at, len(x))
            if first < stop:
                yield x[first:stop], g[first:stop]
            at += len(x)
            if at >= self.stop:
                return


def cut(pairs: AttributionSet, parts: int) -> tuple[Stretch, ...]:
    """Return the pairs cut into `parts` stretches of equal size, within one: other tokens, and mostly other texts."""
    ends = [len(pairs) * part // parts for part in range(parts + 1)]
    return tuple(Stretch(pairs, first, stop) for first, stop in pairwise(ends))


def halves(pairs: AttributionSet) -> tuple[Stretch, ...]:
    """Return the first and the second half of the pairs."""
    return cut(pairs, 2)


def pairs_of(found: "AttributionSet | tuple[Tensor, Tensor]") -> AttributionSet:
    """Return what a `DataSource` gives as an attribution set; it may give the two tensors themselves."""
    return TensorPairs(*found) if isinstance(found, tuple) else found


def blocks(pairs: AttributionSet, size: int, d_model: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (first, x, g) for blocks of `size` pairs, the last of them smaller; blocks do not end where parts do.

    So what is computed of a block does not depend on how the set is cut into parts. At most two parts are held: that of
    the block before, and the next.

    Args:
        pairs: the set.
        size: pairs of a block.
        d_model: width that x and g must have.

    Raises:
        DataError: x and g of a part differ in shape, or have another width.
    """
    first, held, rows = 0, list[tuple[Tensor, Tensor]](), 0
    for x, g in pairs.parts():
        if x.shape != g.shape or x.ndim != 2:
            raise DataError(f"attribution set: x {tuple(x.shape)} and g {tuple(g.shape)} must be equal, [n, d_model]")
        if x.shape[1] != d_model:
            raise DataError(f"attribution set: width {x.shape[1]} is not the SAE's d_model {d_model}")
        start = 0
        while len(x) - start + rows >= size:
            stop = start + size - rows
            yield first, *_together([*held, (x[start:stop], g[start:stop])])
            first, start, held, rows = first + size, stop, [], 0
        if start < len(x):
            # A copy, so that the part can go.
            held.append((x[start:].clone(), g[start:].clone()))
            rows += len(x) - start
        del x, g
    if rows:
        yield first, *_together(held)


def _together(held: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(held) == 1:
        return held[0]
    return torch.cat([x for x, _ in held]), torch.cat([g for _, g in held])
