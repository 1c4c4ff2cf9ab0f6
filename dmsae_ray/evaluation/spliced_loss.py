"""How much of the language model's loss is kept when its residual stream passes through an SAE.

Positions that training left out (BOS, special tokens, high norms) keep their own activations, in the reconstruction and
in the ablations: an SAE that never saw an attention sink says nothing of it, and one wrong sink ruins the loss of every
later token.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae import MatryoshkaSAE

Edit = Callable[[Tensor], Tensor]


class HasLoss(Protocol):
    """What is needed of `lm.Tap`."""

    def loss(self, tokens: Tensor, edit: Edit | None = None, loss_mask: Tensor | None = None) -> tuple[Tensor, int]:
        """Return the summed next-token cross-entropy in nats, and the number of targets.

        The residual stream x [n, t, d] is replaced by edit(x), if `edit` is given.
        """

    def compare(
        self, tokens: Tensor, edit: Edit, loss_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return three sums in nats and the number of targets; needed only where the divergence is asked for.

        The sums are the cross-entropy without and with the edit, and KL(without || with).
        """


@dataclass(frozen=True)
class LossRecovered:
    """Next-token cross-entropies in nats per token, and the share of the loss recovered.

    Attributes:
        clean: cross-entropy of the model as it is.
        spliced: cross-entropy with the residual stream replaced by the SAE's reconstruction.
        zero: cross-entropy with the residual stream replaced by 0.
        recovered: (zero - spliced) / (zero - clean); 1 is lossless; NaN if the zero ablation does no harm.
        targets: number of tokens that were predicted.
        mean: cross-entropy with the residual stream replaced by its mean; None if no mean was given.
        recovered_from_mean: (mean - spliced) / (mean - clean); NaN if the mean ablation does no harm; None without a
            mean. The mean does less harm than 0, so this is the stricter measure.
        kl: mean over the predicted tokens of KL(model as it is || spliced model) of the next-token distributions, in
            nats; None if it was not asked for.
    """

    clean: float
    spliced: float
    zero: float
    recovered: float
    targets: int
    mean: float | None = None
    recovered_from_mean: float | None = None
    kl: float | None = None


@torch.no_grad()
def loss_recovered(
    tap: HasLoss,
    sae: MatryoshkaSAE,
    tokens: Tensor | Iterable[Tensor],
    *,
    batch_contexts: int = 8,
    keep_mask: Tensor | Callable[[Tensor], Tensor] | None = None,
    loss_mask: Tensor | None = None,
    mean: Tensor | None = None,
    like: LossRecovered | None = None,
    divergence: bool = False,
) -> LossRecovered:
    """Measure how much of the loss at `tap` an SAE recovers.

    Args:
        tap: the language model.
        sae: takes raw activations, and is on the tap's device.
        tokens: int64 [n, t], cut into batches of `batch_contexts` contexts; or an iterable of batches, used as they
            are.
        batch_contexts: contexts per batch.
        keep_mask: bool [n, t] for tokens given as one tensor, or a function that maps a batch of tokens to it: the
            positions that neither the SAE nor an ablation may change, which are those that training left out.
        loss_mask: bool [n, t] for tokens given as one tensor; False where the next token is not to be predicted,
            because it begins another document.
        mean: [d_model], the mean activation, for the mean ablation; None: without it.
        like: the result for another SAE at the same tap, tokens and masks; the losses that do not depend on the SAE are
            taken from it.
        divergence: measure `LossRecovered.kl`, too; the model as it is then runs whether or not `like` is given.

    Raises:
        ConfigError: an argument is outside its range, or two do not fit together.
        DataError: there is nothing to predict.
    """
    if batch_contexts < 1:
        raise ConfigError(f"batch_contexts: {batch_contexts!r} must be at least 1")
    clean = spliced = zero = mean_loss = apart = 0.0
    targets = 0
    for batch, mask, given in _batches(tokens, loss_mask, keep_mask, batch_contexts):
        keep = keep_mask(batch) if callable(keep_mask) else given
        if divergence:
            own, total, distance, count = tap.compare(batch, _reconstruction(sae, keep), mask)
            clean, apart = clean + float(own), apart + float(distance)
        else:
            total, count = tap.loss(batch, _reconstruction(sae, keep), mask)
            clean += float(tap.loss(batch, None, mask)[0]) if like is None else 0.0
        spliced += float(total)
        targets += count
        if like is None:
            zero += float(tap.loss(batch, _replaced(None, keep), mask)[0])
            if mean is not None:
                mean_loss += float(tap.loss(batch, _replaced(mean, keep), mask)[0])
    if targets == 0:
        raise DataError("loss recovered: the tokens have no targets to predict")
    clean, spliced, zero = clean / targets, spliced / targets, zero / targets
    by_mean = None if mean is None else mean_loss / targets
    if like is not None:
        if like.targets != targets:
            raise ConfigError(f"like: it was measured on {like.targets} targets, and these are {targets}")
        clean, zero, by_mean = like.clean, like.zero, like.mean
    from_mean = None if by_mean is None else _recovered(clean, spliced, by_mean)
    kl = apart / targets if divergence else None
    return LossRecovered(clean, spliced, zero, _recovered(clean, spliced, zero), targets, by_mean, from_mean, kl)


def _recovered(clean: float, spliced: float, ablated: float) -> float:
    return (ablated - spliced) / (ablated - clean) if ablated > clean else float("nan")


def _batches(
    tokens: Tensor | Iterable[Tensor],
    loss_mask: Tensor | None,
    keep_mask: Tensor | Callable[[Tensor], Tensor] | None,
    contexts: int,
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Yield batches of tokens with their part of each mask that is a tensor."""
    masks = {"loss_mask": loss_mask, "keep_mask": keep_mask if isinstance(keep_mask, Tensor) else None}
    for name, mask in masks.items():
        if mask is not None and not isinstance(tokens, Tensor):
            raise ConfigError(f"{name}: a tensor goes with tokens as one tensor, not with batches")
        if mask is not None and isinstance(tokens, Tensor) and mask.shape != tokens.shape:
            raise ConfigError(f"{name}: shape {list(mask.shape)} is not that of the tokens, {list(tokens.shape)}")
    if not isinstance(tokens, Tensor):
        yield from ((batch, None, None) for batch in tokens)
        return
    for first in range(0, len(tokens), contexts):
        part = slice(first, first + contexts)
        loss, keep = (None if mask is None else mask[part] for mask in masks.values())
        yield tokens[part], loss, keep


def _reconstruction(sae: MatryoshkaSAE, keep: Tensor | None) -> Edit:
    def edit(x: Tensor) -> Tensor:
        flat = sae.decode(sae.encode(x.reshape(-1, x.shape[-1]).float()))
        return _spare(x, flat.reshape(x.shape).to(x.dtype), keep)

    return edit


def _replaced(mean: Tensor | None, keep: Tensor | None) -> Edit:
    def edit(x: Tensor) -> Tensor:
        edited = torch.zeros_like(x) if mean is None else mean.to(x.device, x.dtype).expand_as(x)
        return _spare(x, edited, keep)

    return edit


def _spare(x: Tensor, edited: Tensor, keep: Tensor | None) -> Tensor:
    return edited if keep is None else torch.where(keep.to(x.device)[..., None], x, edited)
