"""Loss of one batch (Eq. 5 with AuxK) and its gradients, differentiated by hand over the kept triples."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmsae_ray.sae.auxk import AuxK, auxk
from dmsae_ray.sae.by_matrix import ByMatrix, matrix_is_faster
from dmsae_ray.sae.by_triples import ByTriples
from dmsae_ray.sae.dead import SilenceCounter
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.gradients import Gradients
from dmsae_ray.sae.kernel_choice import kernels_for
from dmsae_ray.sae.product import product
from dmsae_ray.sae.ranks import RankGroup
from dmsae_ray.sae.selection import BatchTopK
from dmsae_ray.sae.triples import Triples


@dataclass(frozen=True)
class BatchLoss:
    """Figures of the global batch, all detached."""

    total: Tensor
    """[] mean over prefixes of weight * prefix_mse, plus alpha * aux."""
    prefix_mse: Tensor
    """[j] mean over tokens of ||x - xhat_j||^2."""
    aux: Tensor
    """[] AuxK loss."""
    l0_core: Tensor
    """[] active core latents per token."""
    l0_non_core: Tensor
    """[] active other latents per token."""
    smallest: Tensor
    """[] smallest positive activation that BatchTopK kept; 0 if there is none."""


class Objective:
    """Computes the loss of a batch and writes its gradients; it updates `silence` in between, because AuxK needs it.

    Args:
        sae: the dictionary.
        silence: its silence counters.
        ranks: the ranks that share the batch.
        prefix_weights: for each prefix, the factor of its loss in the total.
        auxk_alpha: factor of the AuxK loss; 0 for no AuxK.
        k_aux: dead latents per token in AuxK.
        low: dtype to which the factors of large products are rounded, see `product`.
    """

    def __init__(
        self,
        sae: MatryoshkaSAE,
        silence: SilenceCounter,
        ranks: RankGroup,
        *,
        prefix_weights: tuple[float, ...],
        auxk_alpha: float,
        k_aux: int,
        low: torch.dtype | None = None,
    ) -> None:
        self._sae, self._silence, self._ranks = sae, silence, ranks
        self._prefix_weights, self._alpha, self._k_aux = prefix_weights, auxk_alpha, k_aux
        self._low = low
        self._select = BatchTopK(ranks, sae.W_enc.device, low)
        self._in_blocks = sae.W_enc.device.type == "cpu"
        self._kernels = kernels_for(sae)
        boundaries = torch.tensor([sae.n_core + size for size in sae.prefix_sizes])
        latents = torch.arange(sae.n_latents)
        self._group_of = torch.bucketize(latents, boundaries, right=True).to(sae.W_enc.device)

    def __call__(self, x: Tensor, n_tokens: int, gradients: Gradients) -> BatchLoss:
        """Return the loss of the global batch and overwrite `gradients` with this rank's share.

        Args:
            x: [b, d], this rank's rows of the batch, divided by the norm factor.
            n_tokens: tokens of the batch over all ranks.
            gradients: what is overwritten.
        """
        sae = self._sae
        centred = x - sae.b_dec
        dense = product(centred, sae.W_enc[: sae.n_dense].T, self._low).add_(sae.b_enc[: sae.n_dense]).relu_()
        kept = self._select.select(centred, sae.W_enc, sae.b_enc, sae.n_dense, n_tokens * sae.topk_budget)
        code = self._code(kept, len(x))
        parts = code.decode()
        if sae.n_dense:
            parts[0].addmm_(dense, sae.W_dec[: sae.n_dense])
        squared = _residuals(centred, parts)
        counts = self._count(dense, kept, n_tokens)
        aux = self._auxk(parts[-1], centred, n_tokens)
        _push_back(parts, [2 * weight / n_tokens for weight in self._prefix_weights])
        code.write(gradients, centred, parts)
        self._write_rest(gradients, dense, parts[0], aux)
        return self._summary(squared, counts, aux, kept, n_tokens)

    def _code(self, kept: Triples, b: int) -> ByTriples | ByMatrix:
        if matrix_is_faster(len(kept.values), b, self._sae.n_topk, kept.values.device, self._low):
            return ByMatrix(self._sae, kept, b, self._low)
        groups = len(self._prefix_weights)
        how: dict[str, Any] = {"in_blocks": self._in_blocks, "kernels": self._kernels}
        return ByTriples(self._sae, kept, b, self._group_of, groups, **how)

    def _count(self, dense: Tensor, kept: Triples, n_tokens: int) -> Tensor:
        """Update `silence`, and return [2]: how often core latents and other latents are active on this rank."""
        sae = self._sae
        active = (kept.values > 0).to(torch.int64)
        fired = torch.zeros(sae.n_latents, dtype=torch.int64, device=active.device).index_add_(0, kept.latents, active)
        fired[: sae.n_dense] = (dense > 0).sum(0)
        core = fired[: sae.n_core].sum()
        counts = torch.stack([core, fired.sum() - core])
        self._silence.update(self._ranks.maximum((fired > 0).to(torch.uint8)).bool(), n_tokens)
        return counts

    def _auxk(self, residual: Tensor, centred: Tensor, n_tokens: int) -> AuxK | None:
        candidates = self._silence.dead() if self._alpha > 0 else None
        if candidates is None:
            return None
        latents, dead = candidates
        weights = (self._sae.W_enc, self._sae.b_enc, self._sae.W_dec)
        return auxk(residual, centred, dead, latents, self._k_aux, n_tokens, weights, self._ranks, self._low)

    def _write_rest(self, gradients: Gradients, dense: Tensor, push: Tensor, aux: AuxK | None) -> None:
        """Add what the code does not write: dense core, AuxK, b_dec.

        push [b, d] is the derivative with respect to the contribution of the first group.
        """
        sae = self._sae
        if sae.n_dense:
            d_dense = torch.where(dense > 0, push @ sae.W_dec[: sae.n_dense].T, 0)
            torch.mm(dense.T, push, out=gradients.W_dec[: sae.n_dense])
            torch.sum(d_dense, 0, out=gradients.b_enc[: sae.n_dense])
        if aux is not None:
            self._add_aux(gradients, aux)
        # b_dec enters every prefix directly, and every pre-activation through x - b_dec.
        torch.sum(push, 0, out=gradients.b_dec)
        gradients.b_dec.sub_(gradients.b_enc @ sae.W_enc)

    def _add_aux(self, gradients: Gradients, aux: AuxK) -> None:
        n_core = self._sae.n_core
        gradients.W_dec.index_add_(0, aux.latents, aux.W_dec, alpha=self._alpha)
        gradients.b_enc.index_add_(0, aux.latents, aux.b_enc, alpha=self._alpha)
        # Frozen rows have no gradient: their values become 0 and are added to a row that has one.
        frozen = aux.latents < n_core
        rows = (aux.latents - n_core).clamp(min=0)
        aux.W_enc.masked_fill_(frozen[:, None], 0)
        gradients.W_enc.index_add_(0, rows, aux.W_enc, alpha=self._alpha)

    def _summary(self, squared: Tensor, counts: Tensor, aux: AuxK | None, kept: Triples, n_tokens: int) -> BatchLoss:
        own_aux = squared.new_zeros(1) if aux is None else aux.loss.reshape(1)
        shares = self._ranks.sum(torch.cat([squared.double(), counts.double(), own_aux.double()]))
        groups = len(squared)
        prefix_mse = shares[:groups] / n_tokens
        weighted = sum((w * mse for w, mse in zip(self._prefix_weights, prefix_mse, strict=True)), shares.new_zeros(()))
        l0_core, l0_non_core = (shares[groups : groups + 2] / n_tokens).unbind()
        total = weighted + self._alpha * shares[-1]
        return BatchLoss(total, prefix_mse, shares[-1], l0_core, l0_non_core, kept.smallest)


def _residuals(centred: Tensor, parts: Tensor) -> Tensor:
    """Turn each contribution parts[j] [b, d] into the residual x - xhat_j, and return their squared norms [j]."""
    residual, squared = centred, []
    for part in parts:
        residual = torch.sub(residual, part, out=part)
        squared.append(torch.dot(residual.view(-1), residual.view(-1)))
    return torch.stack(squared)


def _push_back(residuals: Tensor, scales: list[float]) -> None:
    """Turn residuals [j, b, d] into derivatives with respect to the contributions of the groups.

    Group j is part of the prefixes j, j + 1, …
    """
    residuals[-1].mul_(-scales[-1])
    for j in range(len(scales) - 2, -1, -1):
        torch.add(residuals[j + 1], residuals[j], alpha=-scales[j], out=residuals[j])
