"""How much of the language model's loss is kept when its residual stream passes through an SAE."""

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


@dataclass(frozen=True)
class LossRecovered:
    """Next-token cross-entropies in nats per token, and the share of the loss recovered.

    Attributes:
        clean: cross-entropy of the model as it is.
        spliced: cross-entropy with the residual stream replaced by the SAE's reconstruction.
        zero: cross-entropy with the residual stream replaced by 0.
        recovered: (zero - spliced) / (zero - clean); 1 is lossless; NaN if the zero ablation does no harm.
        targets: number of tokens that were predicted.
    """

    clean: float
    spliced: float
    zero: float
    recovered: float
    targets: int


@torch.no_grad()
def loss_recovered(
    tap: HasLoss,
    sae: MatryoshkaSAE,
    tokens: Tensor | Iterable[Tensor],
    *,
    batch_contexts: int = 8,
    keep_mask: Callable[[Tensor], Tensor] | None = None,
    loss_mask: Tensor | None = None,
    like: LossRecovered | None = None,
) -> LossRecovered:
    """Measure how much of the loss at `tap` an SAE recovers.

    Args:
        tap: the language model.
        sae: takes raw activations, and is on the tap's device.
        tokens: int64 [n, t], cut into batches of `batch_contexts` contexts; or an iterable of batches, used as they
            are.
        batch_contexts: contexts per batch.
        keep_mask: maps tokens to bool [n, t], the positions that neither the SAE nor the zero ablation may change, such
            as BOS positions that the SAE never saw in training.
        loss_mask: bool [n, t] for tokens given as one tensor; False where the next token is not to be predicted,
            because it begins another document.
        like: the result for another SAE at the same tap, tokens and masks; the clean and the zero loss are taken from
            it.

    Raises:
        ConfigError: an argument is outside its range, or two do not fit together.
        DataError: there is nothing to predict.
    """
    if batch_contexts < 1:
        raise ConfigError(f"batch_contexts: {batch_contexts!r} must be at least 1")
    clean = spliced = zero = 0.0
    targets = 0
    for batch, mask in _batches(tokens, loss_mask, batch_contexts):
        keep = keep_mask(batch) if keep_mask is not None else None
        total, count = tap.loss(batch, _reconstruction(sae, keep), mask)
        spliced += float(total)
        targets += count
        if like is None:
            clean += float(tap.loss(batch, None, mask)[0])
            zero += float(tap.loss(batch, _nothing(keep), mask)[0])
    if targets == 0:
        raise DataError("loss recovered: the tokens have no targets to predict")
    clean, spliced, zero = clean / targets, spliced / targets, zero / targets
    if like is not None:
        if like.targets != targets:
            raise ConfigError(f"like: it was measured on {like.targets} targets, and these are {targets}")
        clean, zero = like.clean, like.zero
    recovered = (zero - spliced) / (zero - clean) if zero > clean else float("nan")
    return LossRecovered(clean, spliced, zero, recovered, targets)


def _batches(
    tokens: Tensor | Iterable[Tensor], loss_mask: Tensor | None, contexts: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    if not isinstance(tokens, Tensor):
        if loss_mask is not None:
            raise ConfigError("loss_mask: goes with tokens as one tensor, not with batches")
        yield from ((batch, None) for batch in tokens)
    elif loss_mask is None:
        yield from ((batch, None) for batch in torch.split(tokens, contexts))
    else:
        yield from zip(torch.split(tokens, contexts), torch.split(loss_mask, contexts), strict=True)


def _reconstruction(sae: MatryoshkaSAE, keep: Tensor | None) -> Edit:
    def edit(x: Tensor) -> Tensor:
        flat = sae.decode(sae.encode(x.reshape(-1, x.shape[-1]).float()))
        return _spare(x, flat.reshape(x.shape).to(x.dtype), keep)

    return edit


def _nothing(keep: Tensor | None) -> Edit:
    return lambda x: _spare(x, torch.zeros_like(x), keep)


def _spare(x: Tensor, edited: Tensor, keep: Tensor | None) -> Tensor:
    return edited if keep is None else torch.where(keep.to(x.device)[..., None], x, edited)
