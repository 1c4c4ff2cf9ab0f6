"""A language model over some contexts, as a model whose activations can be replaced (`SplicedModel`)."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError
from dmsae_ray.evaluation.latent_ablation import Units


class ReplacesActivations(Protocol):
    """What is needed of `lm.Tap`."""

    device: torch.device

    def activations(self, tokens: Tensor) -> Tensor:
        """Return the residual stream x [n, t, d_model] of tokens int64 [n, t]."""

    def final(self, tokens: Tensor) -> Tensor:
        """Return the hidden states after the final norm, [n, t, d]."""

    def losses(self, tokens: Tensor, x: Tensor, loss_mask: Tensor | None = None, like: Tensor | None = None) -> Tensor:
        """Return the summed loss of each context with x in the place of the residual stream, float64 [n]."""

    def spliced_gradients(
        self, tokens: Tensor, x: Tensor, loss_mask: Tensor | None = None, like: Tensor | None = None
    ) -> Tensor:
        """Return the gradient of these losses, summed over contexts, at x: [n, t, d_model]."""


class SplicedContexts:
    """Contexts of a language model; the units are whole contexts, since a token reaches all later ones.

    Args:
        tap: the model.
        tokens: int64 [n, t].
        keep: bool [n, t], the tokens that keep their own activation, as in `loss_recovered`; None: no token.
        loss_mask: bool [n, t], the positions whose next token counts; None: all that have one.
        expected: the loss is what is expected over all next tokens, by the unmodified model, and not the loss at the
            next token of the text: what an edit changes is then not hidden by which tokens the text happens to have.
        batch: contexts that run at a time.

    Raises:
        ConfigError: a mask has another shape than the tokens, or `batch` is below 1.
    """

    def __init__(
        self,
        tap: ReplacesActivations,
        tokens: Tensor,
        *,
        keep: Tensor | None = None,
        loss_mask: Tensor | None = None,
        expected: bool = False,
        batch: int = 8,
    ) -> None:
        for name, mask in (("keep", keep), ("loss_mask", loss_mask)):
            if mask is not None and mask.shape != tokens.shape:
                raise ConfigError(f"{name}: shape {list(mask.shape)} is not that of the tokens, {list(tokens.shape)}")
        if batch < 1:
            raise ConfigError(f"batch: {batch!r} must be at least 1")
        self._tap, self._tokens, self._keep, self._batch = tap, tokens, keep, batch
        counts = torch.ones_like(tokens, dtype=torch.bool) if loss_mask is None else loss_mask.clone()
        counts[:, -1] = False
        self._counts = counts
        parts = torch.split(tokens, batch)
        self._final = torch.cat([tap.final(part).cpu() for part in parts]) if expected and len(tokens) else None

    @property
    def targets(self) -> int:
        """Number of tokens that are predicted."""
        return int(self._counts.sum())

    def units(self) -> Iterator[Units]:
        """Yield the contexts."""
        for first in range(0, len(self._tokens), self._batch):
            part = slice(first, first + self._batch)
            keep = None if self._keep is None else self._keep[part].to(self._tap.device)
            yield Units(first, self._tap.activations(self._tokens[part]).float(), keep)

    def losses(self, numbers: Tensor, x: Tensor) -> Tensor:
        """Return the summed loss of contexts [r] with x [r, t, d_model] in place of their activations."""
        at = numbers.cpu()
        like = None if self._final is None else self._final[at].to(self._tap.device)
        return self._tap.losses(self._tokens[at], x, self._counts[at], like)

    def gradients(self, numbers: Tensor, x: Tensor) -> Tensor:
        """Return the gradient at x [r, t, d_model] of the summed losses of contexts [r] that have x: of x's shape."""
        at = numbers.cpu()
        like = None if self._final is None else self._final[at].to(self._tap.device)
        return self._tap.spliced_gradients(self._tokens[at], x, self._counts[at], like)
