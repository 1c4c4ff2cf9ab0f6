"""Next-token cross-entropy over large vocabularies: one chunk of tokens at a time, in float32."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

_CHUNK_LOGITS = 1 << 27
"""Logits at a time.

With a vocabulary of 256,000 these are 524 tokens: half a gigabyte in float32, about 2 GB with gradients.
"""

_IGNORED = -100

Unembed = Callable[[Tensor], Tensor]


def targets_of(tokens: Tensor, loss_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return what each position must predict.

    Args:
        tokens: int64 [n, t].
        loss_mask: bool [n, t], the positions whose next token counts; None: all that have a next token.

    Returns:
        targets int64 [n, t], -100 where there is none, and valid bool [n, t].

    Raises:
        ValueError: the mask has another shape or is not bool.
    """
    valid = torch.ones_like(tokens, dtype=torch.bool)
    if loss_mask is not None:
        if loss_mask.shape != tokens.shape or loss_mask.dtype != torch.bool:
            raise ValueError(
                f"loss_mask is {loss_mask.dtype} {list(loss_mask.shape)}; it must be bool {list(tokens.shape)}"
            )
        valid = loss_mask.to(tokens.device).clone()
    valid[:, -1] = False
    targets = torch.roll(tokens, -1, dims=1).masked_fill(~valid, _IGNORED)
    return targets, valid


def chunk_rows(vocab_size: int) -> int:
    """Return the number of tokens whose logits are computed at a time."""
    return max(1, _CHUNK_LOGITS // vocab_size)


def summed(head: Unembed, hidden: Tensor, targets: Tensor, rows: int) -> Tensor:
    """Return the sum of the cross-entropies in nats, float64 []; no graph is built.

    Args:
        head: maps hidden states [1, m, d] to logits [1, m, vocab].
        hidden: [n, t, d].
        targets: int64 [n, t], -100 where there is none.
        rows: tokens at a time.
    """
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    with torch.no_grad():
        for part, target in _chunks(hidden, targets, rows):
            total += cross_entropy(_wide(head(part)), target, ignore_index=_IGNORED, reduction="none").double().sum()
    return total


def by_context(head: Unembed, hidden: Tensor, targets: Tensor, rows: int, like: Tensor | None = None) -> Tensor:
    """Return the summed cross-entropy of each context in nats, float64 [n]; no graph is built.

    Args:
        head: as in `summed`, like the next three.
        hidden: [n, t, d].
        targets: int64 [n, t], -100 where there is none.
        rows: tokens at a time.
        like: [n, t, d], hidden states of the model as it is: the loss is then what is expected over all next tokens, as
            often as the softmax there has them. None: the loss at the next token of the text.
    """
    found = []
    others = hidden if like is None else like
    with torch.no_grad():
        for (part, target), (other, _) in zip(
            _chunks(hidden, targets, rows), _chunks(others, targets, rows), strict=True
        ):
            found.append(_losses(head, part, target, None if like is None else other).double())
    return torch.cat(found).view(targets.shape).sum(dim=1)


def compared(head: Unembed, clean: Tensor, edited: Tensor, targets: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return how two runs of a model over the same tokens predict; no graph is built.

    The logits of both exist at the same time, so that half as many tokens are taken at a time.

    Args:
        head: as in `summed`, like `targets` and `rows`.
        clean: hidden states of the model as it is, [n, t, d].
        edited: hidden states of the other run, [n, t, d].
        targets: int64 [n, t], -100 where there is none.
        rows: tokens at a time, if there was one run.

    Returns:
        Three sums over the tokens that have a target, in nats, float64 []: the cross-entropy of the clean run, that of
        the edited run, and KL(clean || edited) of their next-token distributions.
    """
    total = torch.zeros(3, dtype=torch.float64, device=clean.device)
    half = max(1, rows // 2)
    with torch.no_grad():
        for (own, target), (other, _) in zip(
            _chunks(clean, targets, half), _chunks(edited, targets, half), strict=True
        ):
            log_p, log_q = log_softmax(_wide(head(own)), dim=1), log_softmax(_wide(head(other)), dim=1)
            known, place = target != _IGNORED, target.clamp(min=0)[:, None]
            p = log_p.exp()
            # A token that cannot come adds nothing, even where both logarithms are -inf.
            apart = torch.where(p > 0, p * (log_p - log_q), 0).sum(dim=1, dtype=torch.float64)
            sums = -log_p.gather(1, place)[:, 0].double(), -log_q.gather(1, place)[:, 0].double(), apart
            total += torch.stack([torch.where(known, one, 0).sum() for one in sums])
    return total[0], total[1], total[2]


def gradient(head: Unembed, hidden: Tensor, targets: Tensor, rows: int, like: Tensor | None = None) -> Tensor:
    """Return the gradient of the summed cross-entropy with respect to the hidden states: [n, t, d], in their dtype.

    The arguments are those of `by_context`. The logits of only one chunk and their gradient exist at a time.
    """
    grads = []
    others = hidden if like is None else like
    for (part, target), (other, _) in zip(_chunks(hidden, targets, rows), _chunks(others, targets, rows), strict=True):
        with torch.enable_grad():
            part.requires_grad_(True)
            loss = _losses(head, part, target, other if like is not None else None).sum()
        grads.append(torch.autograd.grad(loss, part)[0])
    return torch.cat(grads, dim=1).view_as(hidden)


def _losses(head: Unembed, part: Tensor, target: Tensor, like: Tensor | None) -> Tensor:
    """Return the cross-entropies of a piece, as `by_context` has them: float [m], 0 where there is no target."""
    if like is None:
        return cross_entropy(_wide(head(part)), target, ignore_index=_IGNORED, reduction="none")
    with torch.no_grad():
        wanted = torch.softmax(_wide(head(like)), dim=1)
    return cross_entropy(_wide(head(part)), wanted, reduction="none").masked_fill(target == _IGNORED, 0)


def _chunks(hidden: Tensor, targets: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pieces [1, at most rows, d] of the hidden states, without a graph, with their targets."""
    flat = hidden.detach().reshape(1, -1, hidden.shape[-1])
    for part, target in zip(torch.split(flat, rows, dim=1), torch.split(targets.reshape(-1), rows), strict=True):
        yield part.detach(), target


def _wide(logits: Tensor) -> Tensor:
    """Turn logits [1, m, vocab] into [m, vocab] in float32; float64 stays."""
    logits = logits[0]
    return logits if logits.dtype == torch.float64 else logits.float()
