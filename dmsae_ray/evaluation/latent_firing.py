"""Where latents fire: frequency, distribution of activations, and text around firing tokens, in one bounded pass.

The tokens come block by block, whole contexts at a time. For each latent a histogram, the strongest contexts and a
random sample of the others are kept, so that memory does not grow with the number of tokens (two numbers of a token
apart: its id, and whether it has an activation).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

_FINE = 2048
"""Bins of the running histogram. Its range is a power of two, doubled where an activation exceeds it."""
_MERGED = 32
"""Fine bins behind one bin of a result, which then has 33 to 64 bins up to the largest activation."""
_SAMPLE = 64
"""Contexts of the random sample, a latent."""
RANGES = 4
"""Ranges of activation quantiles from which examples are shown: quarters."""


@dataclass(frozen=True, eq=False)
class Snippet:
    """A stretch of one context, around one token at which a latent fires.

    Attributes:
        context: number of the context among those that were added.
        start: place of the first token in the context.
        peak: which token of the snippet it was chosen for.
        tokens: int64 [w].
        activations: float32 [w]; NaN where a token has no activation, since a filter left it out.
    """

    context: int
    start: int
    peak: int
    tokens: Tensor
    activations: Tensor

    @property
    def activation(self) -> float:
        """Activation of the token that it was chosen for."""
        return float(self.activations[self.peak])


@dataclass(frozen=True, eq=False)
class Quantiles:
    """Examples from a range of a latent's non-zero activations, such as the lowest quarter.

    Attributes:
        low: lower end of the range, a share of the firing tokens in 0..1.
        high: upper end.
        snippets: drawn at random from it, by descending activation; contexts of `LatentFiring.top` are left out.
    """

    low: float
    high: float
    snippets: tuple[Snippet, ...]


@dataclass(frozen=True, eq=False)
class LatentFiring:
    """Where and how strongly one latent fires.

    Attributes:
        tokens: tokens that have an activation.
        fired: those at which the latent is above 0.
        maximum: largest activation; 0 if it never fires.
        mean: mean of the non-zero activations; NaN without any.
        bin_width: width of a bin of the histogram, which begins at 0; a power of two.
        histogram: int64 [bins], the non-zero activations; bin i holds those in [i, i + 1) bin_width.
        top: the contexts with the largest activations, each once, strongest first.
        quantiles: examples from all other ranges, highest first.
    """

    tokens: int
    fired: int
    maximum: float
    mean: float
    bin_width: float
    histogram: Tensor
    top: tuple[Snippet, ...]
    quantiles: tuple[Quantiles, ...]

    @property
    def frequency(self) -> float:
        """Share of the tokens at which it fires; NaN without tokens."""
        return self.fired / self.tokens if self.tokens else math.nan


@dataclass(eq=False)
class _Kept:
    """For each latent the contexts with the largest keys. Ties go to the context that came first."""

    most: int
    n: int
    before: int
    after: int
    key: Tensor = field(init=False)
    context: Tensor = field(init=False)
    place: Tensor = field(init=False)
    start: Tensor = field(init=False)
    activations: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.key = torch.full((self.most, self.n), -math.inf, dtype=torch.float64)
        self.context, self.place, self.start = (torch.zeros(self.most, self.n, dtype=torch.int64) for _ in range(3))
        self.activations = torch.zeros(self.most, self.n, 0)

    def offer(self, key: Tensor, first: int, z: Tensor, known: Tensor, choose: Callable[[Tensor], Tensor]) -> None:
        """Keep those of c contexts whose keys are among the largest.

        Args:
            key: float64 [c, n]; -inf for what must not be kept.
            first: number of the first of the contexts.
            z: [c, t, n].
            known: bool [c, t].
            choose: gives, for rows [s, t] of activations, the place in each around which the snippet lies.
        """
        length = z.shape[1]
        width = min(length, self.before + 1 + self.after)
        if self.activations.shape[2] != width:
            self.activations = torch.zeros(self.most, self.n, width)
        keys, order = torch.cat([self.key, key]).sort(dim=0, descending=True, stable=True)
        keys, order = keys[: self.most], order[: self.most]
        rank, latent = ((order >= self.most) & (keys > -math.inf)).nonzero(as_tuple=True)
        if len(rank) == 0:
            return
        old = order.clamp(max=self.most - 1)
        self.key = keys
        self.context, self.place, self.start = (t.gather(0, old) for t in (self.context, self.place, self.start))
        self.activations = self.activations.gather(0, old[:, :, None].expand(-1, -1, width))
        local = order[rank, latent] - self.most
        rows = z[local, :, latent]
        place = choose(rows)
        start = (place - self.before).clamp(min=0, max=length - width)
        inside = start[:, None] + torch.arange(width)
        shown = rows.gather(1, inside)
        shown[~known[local].gather(1, inside)] = math.nan
        self.context[rank, latent], self.place[rank, latent], self.start[rank, latent] = first + local, place, start
        self.activations[rank, latent] = shown


class FiringCollector:
    """Collects where n latents fire. Everything it draws comes from `seed`: the same blocks give the same result.

    Args:
        n_latents: n.
        top: contexts with the largest activations to keep, a latent.
        per_range: examples from each range of quantiles.
        before: tokens of a snippet before the firing one; at the ends of a context the snippet is shifted.
        after: tokens of a snippet after it.
        seed: seed of the random sample.
    """

    def __init__(
        self, n_latents: int, *, top: int = 12, per_range: int = 2, before: int = 24, after: int = 15, seed: int = 0
    ) -> None:
        self._n, self._per_range = n_latents, per_range
        self._generator = torch.Generator().manual_seed(seed)
        self._tokens: list[Tensor] = []
        self._seen = self._contexts = 0
        self._fired = torch.zeros(n_latents, dtype=torch.int64)
        self._sum = torch.zeros(n_latents, dtype=torch.float64)
        self._maximum = torch.zeros(n_latents)
        # The range of latent i is 2 ** exponent[i]; 0 is a start as good as any.
        self._exponent = torch.zeros(n_latents, dtype=torch.int64)
        self._bins = torch.zeros(n_latents, _FINE, dtype=torch.int64)
        self._top = _Kept(top, n_latents, before, after)
        self._sample = _Kept(_SAMPLE, n_latents, before, after)

    @torch.no_grad()
    def add(self, z: Tensor, known: Tensor, tokens: Tensor) -> None:
        """Add whole contexts.

        Args:
            z: float32 [c, t, n], activations under the inference mask; 0 where there are none.
            known: bool [c, t], tokens that have an activation.
            tokens: integers [c, t].
        """
        first, fires = self._contexts, z > 0
        self._tokens.append(tokens.to(torch.int32))
        self._contexts += len(tokens)
        self._seen += int(known.sum())
        count = fires.sum(dim=1)
        self._fired += count.sum(dim=0)
        self._sum += z.sum(dim=(0, 1), dtype=torch.float64)
        peaks = z.amax(dim=1)
        self._widen(peaks.amax(dim=0))
        self._count(z, fires)

        def strongest(rows: Tensor) -> Tensor:
            return rows.argmax(dim=1)

        def drawn(rows: Tensor) -> Tensor:
            on = rows > 0
            rank = (torch.rand(len(rows), generator=self._generator) * on.sum(1)).long()
            return ((on.cumsum(1) == rank[:, None] + 1) & on).int().argmax(dim=1)

        absent = torch.tensor(-math.inf, dtype=torch.float64)
        self._top.offer(torch.where(count > 0, peaks.double(), absent), first, z, known, strongest)
        # Contexts are drawn without replacement by their number of firing tokens (Efraimidis and Spirakis 2006: keep
        # the largest u^(1/w)), and one of these tokens in each: about a uniform draw of tokens, each context once.
        u = torch.rand(count.shape, generator=self._generator, dtype=torch.float64).clamp(min=1e-300)
        self._sample.offer(torch.where(count > 0, u.log() / count.clamp(min=1), absent), first, z, known, drawn)

    def result(self) -> list[LatentFiring]:
        """Return what was found, one entry per latent."""
        tokens = torch.cat(self._tokens) if self._tokens else torch.zeros(0, 0, dtype=torch.int32)
        return [self._latent(i, tokens) for i in range(self._n)]

    def _widen(self, peak: Tensor) -> None:
        """Double the ranges that do not hold `peak` [n]."""
        self._maximum = torch.maximum(self._maximum, peak)
        exponent = torch.frexp(self._maximum).exponent.long()  # maximum < 2 ** exponent
        fresh = self._bins.sum(dim=1) == 0
        self._exponent = torch.where(fresh, exponent, self._exponent)
        for i in (exponent > self._exponent).nonzero().flatten().tolist():
            halvings = int(exponent[i] - self._exponent[i])
            moved = torch.zeros(_FINE, dtype=torch.int64)
            moved.index_add_(0, torch.arange(_FINE) >> min(halvings, 62), self._bins[i])
            self._bins[i], self._exponent[i] = moved, exponent[i]

    def _count(self, z: Tensor, fires: Tensor) -> None:
        latent = fires.nonzero(as_tuple=True)[2]
        place = self._fine_bin(z[fires], self._exponent[latent])
        counts = torch.bincount(latent * _FINE + place, minlength=self._n * _FINE)
        self._bins += counts.view(self._n, _FINE)

    @staticmethod
    def _fine_bin(values: Tensor, exponent: Tensor) -> Tensor:
        # A power of two only moves the exponent, so that the edges are exact.
        return torch.ldexp(values.double(), math.log2(_FINE) - exponent).long()

    def _latent(self, i: int, tokens: Tensor) -> LatentFiring:
        fired = int(self._fired[i])
        merged = self._bins[i].view(-1, _MERGED).sum(dim=1)
        filled = merged.nonzero().flatten()
        top = [self._snippet(self._top, n, i, tokens) for n in range(int((self._top.key[:, i] > -math.inf).sum()))]
        return LatentFiring(
            tokens=self._seen,
            fired=fired,
            maximum=float(self._maximum[i]),
            mean=float(self._sum[i]) / fired if fired else math.nan,
            bin_width=math.ldexp(_MERGED / _FINE, int(self._exponent[i])),
            histogram=merged[: int(filled[-1]) + 1] if len(filled) else merged[:0],
            top=tuple(top),
            quantiles=self._quantiles(i, tokens, {snippet.context for snippet in top}),
        )

    def _quantiles(self, i: int, tokens: Tensor, shown: set[int]) -> tuple[Quantiles, ...]:
        kept, ranks = self._sample, int((self._sample.key[:, i] > -math.inf).sum())
        inside = (kept.place - kept.start)[:ranks, i]
        values = kept.activations[:ranks, i].gather(1, inside[:, None])[:, 0]
        below = (self._bins[i].cumsum(0) - self._bins[i])[self._fine_bin(values, self._exponent[i])]
        quarters = below * RANGES // self._fired[i].clamp(min=1)
        found: list[list[Snippet]] = [[] for _ in range(RANGES)]
        for rank, (quarter, context) in enumerate(zip(quarters.tolist(), kept.context[:, i].tolist(), strict=False)):
            if context not in shown and len(found[quarter]) < self._per_range:
                found[quarter].append(self._snippet(kept, rank, i, tokens))
        return tuple(
            Quantiles(n / RANGES, (n + 1) / RANGES, tuple(sorted(found[n], key=lambda s: -s.activation)))
            for n in reversed(range(RANGES))
            if found[n]
        )

    @staticmethod
    def _snippet(kept: _Kept, rank: int, i: int, tokens: Tensor) -> Snippet:
        context, start = int(kept.context[rank, i]), int(kept.start[rank, i])
        activations = kept.activations[rank, i]
        own = tokens[context, start : start + len(activations)].long()
        return Snippet(context, start, int(kept.place[rank, i]) - start, own, activations)
