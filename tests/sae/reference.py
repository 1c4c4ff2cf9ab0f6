"""The method and dictionary_learning's recipe in the plainest PyTorch: dense, autograd, torch.optim.Adam, one process.

Shares no code with the package; it decides what is right. Slow on purpose.
"""

import torch
from torch import Tensor


class DenseReference:
    """A dictionary and its training. `core` rows are constants; everything of shape [b, m] exists."""

    def __init__(
        self,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        *,
        n_core: int,
        groups: list[int],
        k: int,
        sparse_core: bool,
        steps: int,
        lr: float = 3e-4,
        warmup: int = 1000,
        decay_start: int | None = None,
        alpha: float = 1 / 32,
        k_aux: int | None = None,
        dead_after: int = 10_000_000,
        beta: float = 0.999,
        threshold_start: int = 1000,
        clip: float = 1.0,
        weights: list[float] | None = None,
    ) -> None:
        self.core = W_enc[:n_core].clone()
        self.free = W_enc[n_core:].clone().requires_grad_()
        self.b_enc = b_enc.clone().requires_grad_()
        self.W_dec = W_dec.clone().requires_grad_()
        self.b_dec = b_dec.clone().requires_grad_()
        self.n_core, self.groups, self.sparse_core = n_core, groups, sparse_core
        self.m, self.d = W_enc.shape
        self.k, self.k_prime = k, max(1, round(k * (self.m - n_core) / self.m))
        self.steps, self.lr, self.warmup, self.clip = steps, lr, warmup, clip
        self.decay_start = int(0.8 * steps) if decay_start is None else decay_start
        self.alpha, self.k_aux, self.dead_after = alpha, k_aux or self.d // 2, dead_after
        self.beta, self.threshold_start = beta, threshold_start
        self.weights = weights or [1 / len(groups)] * len(groups)
        self.theta = -1.0
        self.silent = torch.zeros(self.m, dtype=torch.long)
        self.adam = torch.optim.Adam([self.free, self.b_enc, self.W_dec, self.b_dec], lr=lr, betas=(0.9, 0.999))
        self.step_number = 0

    @property
    def W_enc(self) -> Tensor:
        return torch.cat([self.core, self.free])

    def pre(self, x: Tensor) -> Tensor:
        return torch.relu((x - self.b_dec) @ self.W_enc.T + self.b_enc)

    def select(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(z, the part of z under BatchTopK). Ties at the cutoff: first in row-major order."""
        first, k = (0, self.k) if self.sparse_core else (self.n_core, self.k_prime)
        part = u[:, first:]
        flat = part.reshape(-1)
        order = torch.sort(flat.detach(), descending=True, stable=True).indices[: len(u) * k]
        mask = torch.zeros_like(flat, dtype=torch.bool)
        mask[order] = True
        kept = (flat * mask).view_as(part)
        return torch.cat([u[:, :first], kept], 1), kept

    def loss(self, x: Tensor, dead: Tensor | None = None) -> dict[str, Tensor]:
        """All terms of the loss, with a graph; `dead` [m] bool is what the counters say after this batch."""
        u = self.pre(x)
        z, kept = self.select(u)
        xhat, start, terms = self.b_dec.expand_as(x), 0, []
        ends = torch.tensor(self.groups).cumsum(0) + self.n_core
        for stop in ends.tolist():
            xhat = xhat + z[:, start:stop] @ self.W_dec[start:stop]
            terms.append((x - xhat).pow(2).sum(1).mean())
            start = stop
        prefix = torch.stack(terms)
        aux = torch.zeros((), dtype=x.dtype)
        fired = (z > 0).any(0)
        if dead is None:
            dead = torch.where(fired, 0, self.silent + len(x)) >= self.dead_after
        if dead.any() and self.alpha:
            residual = (x - xhat).detach()
            among = torch.where(dead[None], u, -torch.inf)
            top = among.topk(min(self.k_aux, int(dead.sum())), sorted=False)
            acts = torch.zeros_like(u).scatter(1, top.indices, top.values)
            error = (residual - acts @ self.W_dec).pow(2).sum(1).mean()
            variance = (residual - residual.mean(0)).pow(2).sum(1).mean()
            if variance > 0:
                aux = error / variance
        mean = sum(w * t for w, t in zip(self.weights, terms, strict=True)) / len(terms)
        return {
            "loss": mean + self.alpha * aux,
            "prefix_mse": prefix,
            "aux": aux,
            "z": z,
            "kept": kept,
            "fired": fired,
            "dead": dead,
        }

    def lr_now(self) -> float:
        s = self.step_number
        if s < self.warmup:
            return self.lr * s / self.warmup
        if s >= self.decay_start:
            return self.lr * (self.steps - s) / (self.steps - self.decay_start)
        return self.lr

    def step(self, x: Tensor) -> dict[str, Tensor]:
        if self.step_number == 0:
            self.b_dec.data = geometric_median(x)
        out = self.loss(x)
        self.silent += len(x)
        self.silent[out["fired"]] = 0
        if self.step_number > self.threshold_start:
            positive = out["kept"][out["kept"] > 0]
            smallest = float(positive.detach().min()) if len(positive) else 0.0
            self.theta = smallest if self.theta < 0 else self.beta * self.theta + (1 - self.beta) * smallest
        self.adam.zero_grad()
        out["loss"].backward()
        out = {name: value.detach() for name, value in out.items()}
        with torch.no_grad():
            unit = self.W_dec / (self.W_dec.norm(dim=1, keepdim=True) + 1e-6)
            self.W_dec.grad -= (self.W_dec.grad * unit).sum(1, keepdim=True) * unit
        out["grad_norm"] = torch.nn.utils.clip_grad_norm_([self.free, self.b_enc, self.W_dec, self.b_dec], self.clip)
        for group in self.adam.param_groups:
            group["lr"] = self.lr_now()
        self.adam.step()
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True) + torch.finfo(self.W_dec.dtype).eps
        self.step_number += 1
        return out

    def encode(self, x: Tensor) -> Tensor:
        """Inference: u > theta, no threshold on a dense core."""
        u = self.pre(x)
        theta = torch.full((self.m,), self.theta, dtype=u.dtype)
        if not self.sparse_core:
            theta[: self.n_core] = 0
        return torch.where(u > theta, u, 0)


def geometric_median(points: Tensor) -> Tensor:
    if len(points) == 1:
        return points[0].clone()
    guess = points.mean(0)
    for _ in range(100):
        weights = 1 / (points - guess).norm(dim=1).clamp(min=1e-20)
        new = (weights[:, None] * points).sum(0) / weights.sum()
        moved = (new - guess).norm()
        guess = new
        if moved < 1e-5:
            break
    return guess
