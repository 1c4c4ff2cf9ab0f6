"""Worlds: activations made of known features, and a head that gives them a loss, so that importance is known."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from dmsae_ray.distill import derive_seed
from dmsae_ray.errors import ConfigError

MOMENT_TOKENS = 65_536
"""Tokens behind the second moment of x, with which the head reads single features."""


class World(Protocol):
    """Activations x = sum_i a_i f_i + noise of known features f_i, and a loss of x.

    Bring your own: only these members are used. Everything must be a pure function of the world and the arguments.
    Tensors are float32 on the CPU and finite.
    """

    @property
    def fingerprint(self) -> str:
        """Identifies the world: two worlds of one fingerprint draw the same tokens."""

    @property
    def features(self) -> Tensor:
        """[F, d_model] float32, the features f_i, of unit norm."""

    @property
    def domains(self) -> int:
        """Number of losses; most worlds have one."""

    def draw(self, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return activations x [tokens, d_model] and coefficients a [tokens, F] >= 0, float32."""

    def logits(self, x: Tensor, domain: int) -> Tensor:
        """Return float32 [n, classes] of x [n, d_model], differentiable; labels are drawn from their softmax."""


@dataclass(frozen=True)
class WorldSettings:
    """What a `PlantedWorld` is like.

    Raises:
        ConfigError: a value is outside its range, or two values contradict each other.
    """

    seed: int
    """Seed of features, amplitudes, hierarchy and head."""
    d_model: int = 128
    n_features: int = 256
    mean_active: float = 6.0
    """Sum of the features' frequencies: features that are active at a token, on average."""
    rank_offset: float = 3.0
    """The feature of rank r = 0, 1, … is active with a probability in proportion to 1 / (r + rank_offset)."""
    n_parents: int = 16
    """The so many most frequent features are parents."""
    n_children: int = 96
    """So many of the others are active only where their parent is."""
    group: int = 8
    """Features of a group are correlated."""
    correlation: float = 0.4
    """Correlation of the Gaussians behind the features of a group."""
    noise: float = 0.05
    """Standard deviation of the noise in each dimension."""
    n_causal: int = 24
    """Features that the head reads, over all domains."""
    causal_ranks: tuple[int, int] = (0, 64)
    """The causal features are drawn from these ranks of frequency, the second not included."""
    domains: int = 1
    """Number of losses."""
    n_shared: int = 24
    """Causal features that every domain reads."""
    n_own: int = 0
    """Causal features that a domain reads beside them, drawn for it from the rest."""
    n_classes: int = 16
    bias: float = 0.3
    """What the reading of a causal feature must exceed."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_features", "n_causal", "domains", "group"):
            if getattr(self, name) < 1:
                raise ConfigError(f"world.{name}: {getattr(self, name)!r} must be at least 1")
        if self.n_classes < 2:
            raise ConfigError(f"world.n_classes: {self.n_classes!r} must be at least 2")
        if not 0 < self.mean_active <= self.n_features / 2:
            raise ConfigError(f"world.mean_active: {self.mean_active!r} is not in (0, {self.n_features / 2:g}]")
        if not 0.0 <= self.correlation < 1.0:
            raise ConfigError(f"world.correlation: {self.correlation!r} is not in [0, 1)")
        if self.n_parents + self.n_children > self.n_features or (self.n_children and not self.n_parents):
            raise ConfigError(
                f"world.n_children: {self.n_children} beside {self.n_parents} parents of {self.n_features} features"
            )
        first, stop = self.causal_ranks
        if not 0 <= first < stop <= self.n_features or stop - first < self.n_causal:
            raise ConfigError(
                f"world.causal_ranks: {list(self.causal_ranks)} must lie in 0..{self.n_features} and hold "
                f"{self.n_causal} features"
            )
        if not 0 <= self.n_shared <= self.n_causal or self.n_own > self.n_causal - self.n_shared:
            raise ConfigError(
                f"world.n_shared: {self.n_shared} shared and {self.n_own} own of {self.n_causal} causal features"
            )


class PlantedWorld:
    """Sparse features in superposition, with a skewed frequency, a hierarchy, correlations, and a head.

    The head reads a causal feature c by h_c = relu(D_c x - bias), where D_c reads f_c with gain 1 and lets as little
    else through as a linear reading can (E[x xᵀ]⁻¹ f_c, scaled): reading along f_c itself would give weight to every
    frequent feature that is not orthogonal to it. Logits are h U. Labels are drawn from the softmax at the clean x: so
    the head is calibrated, and the importance of a feature, the KL divergence without it, is exact and never negative.

    Args:
        settings: what it is like.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        s, generator = settings, self._generator("features")
        directions = torch.randn(s.n_features, s.d_model, generator=generator, dtype=torch.float64)
        self._features: Tensor = (directions / directions.norm(dim=1, keepdim=True)).float()
        self._amplitude = torch.exp(0.25 * torch.randn(s.n_features, generator=generator))
        self.frequency = _frequencies(s.n_features, s.mean_active, s.rank_offset)
        """float64 [F], the probability that a feature is active; features are in the order of their rank."""
        self._parent = torch.full((s.n_features,), -1)
        children = s.n_parents + torch.randperm(s.n_features - s.n_parents, generator=generator)[: s.n_children]
        if s.n_children:
            self._parent[children] = torch.randint(s.n_parents, (s.n_children,), generator=generator)
        given = torch.where(self._parent >= 0, self.frequency[self._parent.clamp_min(0)], 1.0)
        self._above = torch.special.ndtri(1 - (self.frequency / given).clamp(max=1 - 1e-9)).float()
        # Parents are in groups of their own: a child that is correlated with its parent would be too frequent.
        of_parents, others = (math.ceil(n / s.group) for n in (s.n_parents, s.n_features - s.n_parents))
        own = torch.randperm(s.n_parents, generator=generator) % max(of_parents, 1)
        theirs = of_parents + torch.randperm(s.n_features - s.n_parents, generator=generator) % max(others, 1)
        self._group, self._groups = torch.cat([own, theirs]), of_parents + others
        self._head = self._generator("head")
        first, stop = s.causal_ranks
        order = first + torch.randperm(stop - first, generator=self._head)[: s.n_causal]
        self.causal = order.sort().values
        """int64 [n_causal], the features that the head reads."""
        scale = torch.exp(0.5 * torch.randn(s.n_causal, generator=self._head)) * 6 / math.sqrt(s.n_classes)
        self._out = torch.randn(s.n_causal, s.n_classes, generator=self._head) * scale[:, None]
        self._reads = torch.zeros(s.domains, s.n_causal)
        shared = torch.randperm(s.n_causal, generator=self._head)
        for domain in range(s.domains):
            rest = shared[s.n_shared :]
            own = rest[torch.randperm(len(rest), generator=self._head)[: s.n_own]]
            self._reads[domain, torch.cat([shared[: s.n_shared], own])] = 1.0

    @property
    def fingerprint(self) -> str:
        """A hash of the settings."""
        text = json.dumps({"world": 1, **asdict(self.settings)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def features(self) -> Tensor:
        """[F, d_model] float32, in the order of their rank."""
        return self._features

    @property
    def domains(self) -> int:
        """Number of losses."""
        return self.settings.domains

    def draw(self, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return x [tokens, d_model] and a [tokens, F]; see `World`."""
        s = self.settings
        generator = torch.Generator().manual_seed(derive_seed(s.seed, "tokens", seed))
        common = torch.randn(tokens, self._groups, generator=generator).mul_(math.sqrt(s.correlation))
        latent = torch.randn(tokens, s.n_features, generator=generator).mul_(math.sqrt(1 - s.correlation))
        active = latent.add_(common.index_select(1, self._group)) > self._above
        token, feature = active.nonzero(as_tuple=True)
        if s.n_children:
            parent = self._parent[feature]
            kept = (parent < 0) | active[token, parent]
            token, feature = token[kept], feature[kept]
        size = torch.randn(len(token), generator=generator).mul_(0.3).add_(1).clamp_min_(0.2)
        a = torch.zeros(tokens, s.n_features)
        a[token, feature] = size * self._amplitude[feature]
        x = torch.randn(tokens, s.d_model, generator=generator).mul_(s.noise).addmm_(a, self._features)
        return x, a

    def logits(self, x: Tensor, domain: int) -> Tensor:
        """Return [n, n_classes]; see `World`."""
        h = torch.relu(x @ self._readings.T - self.settings.bias)
        logits: Tensor = (h * self._reads[domain]) @ self._out
        return logits

    @cached_property
    def _readings(self) -> Tensor:
        """[n_causal, d_model], the rows D_c."""
        x = self.draw(MOMENT_TOKENS, -1)[0].double()
        wanted = self._features[self.causal].double()
        found: Tensor = torch.linalg.solve(x.T @ x / len(x), wanted.T).T
        readings: Tensor = (found / (found * wanted).sum(dim=1, keepdim=True)).float()
        return readings

    def _generator(self, label: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.settings.seed, label))


def _frequencies(n: int, total: float, offset: float) -> Tensor:
    """Return probabilities in proportion to 1 / (rank + offset) that sum to `total`, each at most 1/2: float64 [n]."""
    weight = 1.0 / (torch.arange(n, dtype=torch.float64) + offset)
    low, high = 0.0, total * n / float(weight.sum()) / float(weight.min())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float((weight * middle).clamp(max=0.5).sum()) < total else (low, middle)
    frequencies: Tensor = (weight * high).clamp(max=0.5)
    return frequencies


@torch.no_grad()
def importance(world: World, tokens: int, seed: int, *, pairs: int = 8192) -> Tensor:
    """Return how much each feature matters to each loss: E KL(p(x) ‖ p(x - a_i f_i)), in nats a token.

    p is the softmax of the world's logits. Labels are drawn from p(x), so this is by how much the expected
    cross-entropy rises when the feature is taken away.

    Args:
        world: the world.
        tokens: tokens over which the mean is taken.
        seed: seed of the tokens.
        pairs: (token, feature) pairs that are computed at a time.

    Returns:
        float64 [domains, F], >= 0.
    """
    x, a = world.draw(tokens, seed)
    token, feature = (a > 0).nonzero(as_tuple=True)
    found = torch.zeros(world.domains, a.shape[1], dtype=torch.float64)
    for domain in range(world.domains):
        clean = torch.log_softmax(world.logits(x, domain).double(), dim=1)
        for first in range(0, len(token), pairs):
            t, i = token[first : first + pairs], feature[first : first + pairs]
            without = x[t] - a[t, i][:, None] * world.features[i]
            other = torch.log_softmax(world.logits(without, domain).double(), dim=1)
            found[domain].index_add_(0, i, (clean[t].exp() * (clean[t] - other)).sum(dim=1).clamp_min(0))
    return found / tokens
