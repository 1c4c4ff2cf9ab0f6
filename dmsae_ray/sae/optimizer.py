"""Adam with a projected decoder gradient, a clipped global norm, and decoder rows of unit norm."""

from typing import Any

import torch
from torch import Tensor

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.gradients import Gradients, row_blocks, trainable
from dmsae_ray.sae.kernel_choice import kernels_for
from dmsae_ray.sae.recipe import Recipe

_PROJECTION_EPS = 1e-6
_CLIP_EPS = 1e-6


class DecoderAdam:
    """Adam over what `trainable` returns, in dictionary_learning's order: project, clip, Adam, unit norm.

    Clipping is part of Adam's own pass. Matrices are processed in blocks of rows that fit in the cache; on CUDA, where
    Triton works, each pass over a matrix is a single kernel.
    """

    def __init__(self, sae: MatryoshkaSAE, recipe: Recipe) -> None:
        self._sae, self._recipe = sae, recipe
        self.steps = 0
        self._exp_avg = {name: torch.zeros_like(p) for name, p in trainable(sae).items()}
        self._exp_avg_sq = {name: torch.zeros_like(p) for name, p in trainable(sae).items()}
        self._kernels = kernels_for(sae)

    def step(self, gradients: Gradients, lr: float) -> Tensor:
        """Update the parameters, and return the norm [] of the gradient before clipping; the gradients are overwritten.

        If the norm is not finite, parameters and moments stay as they are: a NaN would never leave them again.
        """
        squares = self._project(gradients.W_dec, self._sae.W_dec.detach())
        others = (gradients.W_enc, gradients.b_enc, gradients.b_dec)
        squares += [torch.linalg.vector_norm(g).square() for g in others]
        norm = torch.stack(squares).sum().sqrt()
        divisor = ((norm + _CLIP_EPS) / self._recipe.clip_norm).clamp(min=1.0).float()
        skip = (~torch.isfinite(norm)).float()
        self.steps += 1
        for name, parameter in trainable(self._sae).items():
            whole = (parameter, gradients.named()[name], self._exp_avg[name], self._exp_avg_sq[name])
            self._adam(whole, lr, divisor, skip, unit=name == "W_dec")
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the moments (live tensors)."""
        return {"steps": self.steps, "exp_avg": dict(self._exp_avg), "exp_avg_sq": dict(self._exp_avg_sq)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a moment has another shape.
        """
        self.steps = int(state["steps"])
        for moments, saved in ((self._exp_avg, state["exp_avg"]), (self._exp_avg_sq, state["exp_avg_sq"])):
            for name, moment in moments.items():
                if saved[name].shape != moment.shape:  # copy_ would broadcast a smaller one
                    raise ValueError(f"moment of {name}: {list(saved[name].shape)}, not {list(moment.shape)}")
                moment.copy_(saved[name])

    def _project(self, gradient: Tensor, rows: Tensor) -> list[Tensor]:
        """Project the decoder's gradient, and return squares that add up to its squared norm."""
        if self._kernels is not None:
            return [self._kernels.project_out(gradient, rows, _PROJECTION_EPS)]
        return [project_out(gradient[a:b], rows[a:b]) for a, b in self._blocks(rows)]

    def _adam(self, whole: tuple[Tensor, ...], lr: float, divisor: Tensor, skip: Tensor, *, unit: bool) -> None:
        """Update one parameter; `whole` is it, its gradient and both moments; unit: its rows get unit norm."""
        betas, eps = self._recipe.betas, self._recipe.eps
        if self._kernels is not None and whole[0].ndim == 2:
            how = {"step": self.steps, "lr": lr, "betas": betas, "eps": eps, "divisor": divisor, "skip": skip}
            self._kernels.adam(*whole, **how, unit=unit)
            return
        steps = torch.full((), float(self.steps), device=divisor.device)
        for a, b in self._blocks(whole[0]):
            p, g, exp_avg, exp_avg_sq = (tensor[a:b] for tensor in whole)
            torch._fused_adam_(
                [p], [g], [exp_avg], [exp_avg_sq], [], [steps],
                lr=lr, beta1=betas[0], beta2=betas[1], weight_decay=0.0, eps=eps, amsgrad=False, maximize=False,
                grad_scale=divisor, found_inf=skip,
            )  # fmt: skip
            if unit:
                _normalise(p)

    @staticmethod
    def _blocks(matrix: Tensor) -> list[tuple[int, int]]:
        return row_blocks(len(matrix), 1 if matrix.ndim == 1 else matrix.shape[1], matrix.device)


def project_out(gradient: Tensor, rows: Tensor) -> Tensor:
    """Remove from `gradient` in place what is parallel to the decoder rows, both [n, d]; return its squared norm."""
    norms = torch.linalg.vector_norm(rows, dim=1) + _PROJECTION_EPS
    parallel = torch.linalg.vecdot(gradient, rows) / norms.square()
    gradient.addcmul_(rows, parallel[:, None], value=-1)
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return norm.square()


def _normalise(rows: Tensor) -> None:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rows.div_(norms.add_(torch.finfo(rows.dtype).eps))
