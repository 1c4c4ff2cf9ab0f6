"""BatchTopK over the global batch (Eq. 2): which pre-activations are kept."""

import torch
from torch import Tensor

from dmsae_ray.sae.order_statistic import kth_largest
from dmsae_ray.sae.product import product
from dmsae_ray.sae.ranks import RankGroup
from dmsae_ray.sae.triples import Triples

_BLOCK_ELEMENTS = 1 << 21
"""Pre-activations computed at a time on the CPU: so few that they are filtered while they are in the cache."""
_CUDA_BLOCK_ELEMENTS = 1 << 26
"""Pre-activations that exist at a time on CUDA: 268 MB; all of B = 8192, m = 65,536 would be 2.1 GB."""
_HINT_MARGIN = 0.9
"""Candidates are pre-activations above this share of the last cutoff."""
_STRIPES = 8
"""How many numbers are first reduced to their maximum, when the few large numbers are searched."""


class BatchTopK:
    """Selects the B * budget largest positive pre-activations of a batch of B tokens, which may lie on several ranks.

    The [b, m] matrix of pre-activations never exists as a whole.

    - On the CPU the last cutoff is remembered, and a scan keeps only candidates near it. The memory changes how long a
      selection takes and nothing else. Where values tie at the cutoff, lower rows go first, then lower latents; rows of
      earlier ranks are lower.
    - On CUDA the largest of each block are merged. That takes a fixed number of triples, so nothing waits for the
      device. The device chooses among ties at the cutoff. With several ranks each has as many triples as are kept in
      all, and most of them are 0.

    Args:
        ranks: the ranks that share the batch.
        device: where the dictionary is.
        low: dtype to which the factors of the product with the encoder are rounded on CUDA; None for no rounding.
    """

    def __init__(self, ranks: RankGroup, device: torch.device, low: torch.dtype | None = None) -> None:
        self._ranks = ranks
        self._scans = device.type == "cpu"
        self._low = low
        self._hint: float | None = None

    def select(self, centred: Tensor, W_enc: Tensor, b_enc: Tensor, first: int, n_keep: int) -> Triples:
        """Return the kept triples of the latents first..m-1.

        Args:
            centred: [b, d], x - b_dec.
            W_enc: [m, d].
            b_enc: [m].
            first: the first latent under BatchTopK.
            n_keep: how many activations are kept over all ranks.
        """
        W, bias = W_enc[first:], b_enc[first:]
        n_keep = max(n_keep, 1)
        if self._scans:
            rows, latents, values = self._scan_until_enough(centred, W, bias, n_keep)
        else:
            rows, latents, values = _largest(centred, W, bias, n_keep, self._low)
        if self._scans or self._ranks.size > 1:
            cutoff, ties = kth_largest(values, n_keep, self._ranks)
            keep = self._above_or_first_ties(rows * len(bias) + latents, values, cutoff, ties)
            if not self._scans:
                values = torch.where(keep, values, 0)
            elif not bool(keep.all()):
                rows, latents, values = rows[keep], latents[keep], values[keep]
            if self._scans:
                self._hint = float(cutoff)
        infinity = values.new_full((1,), torch.inf)
        smallest = torch.cat([torch.where(values > 0, values, torch.inf), infinity]).amin()
        smallest = torch.nan_to_num(self._ranks.minimum(smallest), posinf=0.0)
        return Triples(rows, latents + first, values, smallest)

    def _above_or_first_ties(self, place: Tensor, values: Tensor, cutoff: Tensor, ties: Tensor) -> Tensor:
        """Return which values are kept, bool [n]; `place` [n] is the row-major position, which orders ties."""
        tied = values == cutoff
        n_tied = tied.sum()
        allowed = ties - self._ranks.before(n_tied)
        if self._scans and int(allowed) >= int(n_tied):
            return values >= cutoff
        order = torch.argsort(place)
        counted = torch.empty_like(place)
        counted[order] = tied[order].cumsum(0)
        return (values > cutoff) | (tied & (counted <= allowed))

    def _scan_until_enough(
        self, centred: Tensor, W: Tensor, bias: Tensor, n_keep: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        floor = self._ranks_minimum(self._first_floor(centred, W, bias, n_keep))
        tried = False
        while True:
            rows, latents, values = _scan(centred, W, bias, floor)
            found = int(self._ranks.sum(torch.tensor(len(values))))
            if floor == 0.0 or found >= n_keep:
                return rows, latents, values
            # If the cutoff fell a little, a second scan finds enough; otherwise everything positive is taken.
            floor, tried = (0.0, True) if tried or found < n_keep // 2 else (floor / 2, True)

    def _first_floor(self, centred: Tensor, W: Tensor, bias: Tensor, n_keep: int) -> float:
        if self._hint is not None:
            return self._hint * _HINT_MARGIN
        b, n_latents = len(centred), len(bias)
        if not b:
            return torch.inf
        sample = max(1, min(n_latents, _BLOCK_ELEMENTS // b))
        u = torch.addmm(bias[:sample, None], W[:sample], centred.T).flatten()
        kept_share = n_keep / (b * n_latents)
        place = max(1, min(len(u), len(u) - int(kept_share * len(u)) + 1))
        return max(0.0, float(u.kthvalue(place).values)) * _HINT_MARGIN

    def _ranks_minimum(self, floor: float) -> float:
        lowest = float(self._ranks.minimum(torch.tensor(floor, dtype=torch.float64)))
        return lowest if 0.0 < lowest < torch.inf else 0.0


def _scan(centred: Tensor, W: Tensor, bias: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (rows, latents, values) of all pre-activations above `floor` >= 0, ordered by latent, then by row."""
    b, n_latents = len(centred), len(bias)
    size = min(n_latents, _STRIPES * max(1, _BLOCK_ELEMENTS // (_STRIPES * max(1, b))))
    buffer = centred.new_empty(size, b)
    transposed = centred.T
    places, values = [], []
    for start in range(0, n_latents if b else 0, size):
        stop = min(start + size, n_latents)
        u = torch.addmm(bias[start:stop, None], W[start:stop], transposed, out=buffer[: stop - start]).view(-1)
        place = _above(u, floor)
        values.append(u[place])
        places.append(place.add_(start * b))
    if not places:
        nothing = torch.empty(0, dtype=torch.int64)
        return nothing, nothing, centred.new_empty(0)
    place = torch.cat(places)
    latents = torch.div(place, b, rounding_mode="floor")
    return place - latents * b, latents, torch.cat(values)


def _above(u: Tensor, floor: float) -> Tensor:
    """Return the positions, ascending, of the numbers of u [n] above `floor`, which are few.

    Most of the work is one vectorised maximum over stripes. To compare and list every number would take twice as long
    as to read them.
    """
    if len(u) % _STRIPES:
        return (u > floor).nonzero().view(-1)
    stripes = u.view(_STRIPES, -1)
    column = (stripes.amax(0) > floor).nonzero().view(-1)
    stripe, candidate = (stripes[:, column] > floor).nonzero(as_tuple=True)
    return stripe * stripes.shape[1] + column[candidate]


def _largest(
    centred: Tensor, W: Tensor, bias: Tensor, n_keep: int, low: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (rows, latents, values) of the n_keep largest pre-activations, ordered by latent, then by row.

    What is not positive has value 0.
    """
    b, n_latents = len(centred), len(bias)
    size = max(1, _CUDA_BLOCK_ELEMENTS // max(1, b))
    values, place = centred.new_empty(0), torch.empty(0, dtype=torch.int64, device=centred.device)
    for start in range(0, n_latents if b else 0, size):
        stop = min(start + size, n_latents)
        u = product(W[start:stop], centred.T, low).add_(bias[start:stop, None]).view(-1)
        top = u.topk(min(n_keep, len(u)), sorted=False)
        values, place = torch.cat([values, top.values]), torch.cat([place, top.indices + start * b])
        if len(values) > n_keep:
            top = values.topk(n_keep, sorted=False)
            values, place = top.values, place[top.indices]
    # Sorting int32 takes half as many passes, where the positions fit.
    order = torch.argsort(place.to(torch.int32) if n_latents * b < 2**31 else place)
    place = place[order]
    latents = torch.div(place, max(1, b), rounding_mode="floor")
    return place - latents * b, latents, values[order].relu_()
