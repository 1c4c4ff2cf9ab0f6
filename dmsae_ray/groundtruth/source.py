"""A world as what the method needs: batches and attribution pairs, and a model whose activations can be replaced."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from dmsae_ray.distill import TensorPairs, derive_seed
from dmsae_ray.evaluation import Units
from dmsae_ray.groundtruth.world import World

NORM_TOKENS = 8192
CHUNK = 8192
"""Tokens whose gradients are computed at a time."""


class WorldSource:
    """A `distill.DataSource` of a world: the same runner, scores and cycles as on a language model.

    The attribution set has the same number of tokens for each domain, one domain after the other; cut into as many
    parts as there are domains (`CycleSettings.attribution_parts` or `intersect`), each part has its own loss.

    Args:
        world: the world.
        batch_size: tokens of a batch.
        tokens: attribution tokens of each domain.
        seed: seed of the tokens.
        keep: keep every batch in memory, for trainings that read the same ones.
    """

    def __init__(self, world: World, batch_size: int, tokens: int, seed: int, *, keep: bool = False) -> None:
        self.world, self.batch_size, self.tokens, self.seed = world, batch_size, tokens, seed
        self._kept: dict[int, Tensor] | None = {} if keep else None

    @property
    def fingerprint(self) -> str:
        """A hash of the world and the arguments."""
        what = ["world", self.world.fingerprint, self.batch_size, self.tokens, self.seed]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    @property
    def d_model(self) -> int:
        """Width of x."""
        return self.world.features.shape[1]

    @cached_property
    def norm_factor(self) -> float:
        """Root mean square norm of x."""
        return float(self.world.draw(NORM_TOKENS, self._seed("norm"))[0].square().sum(dim=1).mean().sqrt())

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield batches start..stop-1, each drawn from a seed of its own."""
        for step in range(start, stop):
            x = None if self._kept is None else self._kept.get(step)
            if x is None:
                x = self.world.draw(self.batch_size, self._seed("batch", step))[0]
                if self._kept is not None:
                    self._kept[step] = x
            yield x

    def evaluation(self) -> Iterator[Tensor]:
        """Yield held-out activations."""
        yield self.world.draw(self.tokens, self._seed("evaluation"))[0]

    def attribution(self) -> TensorPairs:
        """Return the pairs (x, g); g is the gradient of each token's loss at its own sampled label."""
        return self._pairs

    def model(self, domain: int, *, sampled: bool = False) -> "WorldModel":
        """Return the head over the attribution tokens of a domain, as a model whose activations can be replaced.

        Args:
            domain: which of the losses.
            sampled: take the labels that were drawn for the gradients; otherwise the loss is expected over all labels.
        """
        part = slice(domain * self.tokens, (domain + 1) * self.tokens)
        return WorldModel(self.world, domain, self._pairs.x[part], self._labels[part] if sampled else None)

    @cached_property
    def _drawn(self) -> tuple[TensorPairs, Tensor]:
        xs, gs, labels = [], [], []
        for domain in range(self.world.domains):
            x = self.world.draw(self.tokens, self._seed("attribution", domain))[0]
            generator = torch.Generator().manual_seed(self._seed("labels", domain))
            for part in torch.split(x, CHUNK):
                leaf = part.clone().requires_grad_()
                with torch.enable_grad():
                    logp = torch.log_softmax(self.world.logits(leaf, domain), dim=1)
                    drawn = torch.multinomial(logp.detach().exp(), 1, generator=generator)
                    (g,) = torch.autograd.grad(-logp.gather(1, drawn).sum(), leaf)
                xs.append(part)
                gs.append(g)
                labels.append(drawn[:, 0])
        return TensorPairs(torch.cat(xs), torch.cat(gs)), torch.cat(labels)

    @property
    def _pairs(self) -> TensorPairs:
        return self._drawn[0]

    @property
    def _labels(self) -> Tensor:
        return self._drawn[1]

    def _seed(self, *labels: str | int) -> int:
        return derive_seed(self.seed, *labels)


class WorldModel:
    """The head of a world over some tokens: an `evaluation.SplicedModel` whose units are single tokens.

    Args:
        world: the world.
        domain: which of its losses.
        x: [n, d_model], the clean activations.
        labels: int64 [n], the label of each token, as a language model has them; None: the loss is what is expected
            over all labels, so that the sample of labels adds no noise.
    """

    def __init__(self, world: World, domain: int, x: Tensor, labels: Tensor | None) -> None:
        self.world, self.domain, self.x = world, domain, x
        with torch.no_grad():
            logits = world.logits(x, domain).double()
        self._targets = torch.softmax(logits, dim=1) if labels is None else labels

    @property
    def targets(self) -> int:
        """One loss a token."""
        return len(self.x)

    def units(self) -> Iterator[Units]:
        """Yield the tokens."""
        for first in range(0, len(self.x), CHUNK):
            yield Units(first, self.x[first : first + CHUNK, None, :])

    def losses(self, numbers: Tensor, x: Tensor) -> Tensor:
        """Return the cross-entropy of tokens [r] at x [r, 1, d_model]."""
        logits = self.world.logits(x[:, 0], self.domain)
        return torch.nn.functional.cross_entropy(logits.double(), self._targets[numbers], reduction="none")

    @torch.no_grad()
    def loss(self, x: Tensor) -> float:
        """Return the mean loss in nats a token with x [n, d_model] in place of the activations."""
        return float(self.losses(torch.arange(len(x)), x[:, None, :]).mean())
