"""The Matryoshka dictionary with a frozen core (Eq. 1-4): weights, inference encoding, decoding."""

import copy
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae.groups import is_whole, non_core_groups

CoreSparsity = Literal["dense", "sparse"]
CoreDecoderInit = Literal["random", "tied"]

UNSET_THRESHOLD = -1.0
"""Value of theta before its first estimate: everything positive passes."""


class MatryoshkaSAE(nn.Module):
    """A sparse autoencoder whose latents form nested prefixes; the latents of the core are rows 0..n_core-1.

    Shapes, with m = n_latents and d = d_model: W_enc [m, d], b_enc [m], W_dec [m, d], b_dec [d]. Both matrices have one
    row per latent. x is [n, d]; latents are the last axis: z is [n, m].

    Parameters do not require grad: `SAETrainer` differentiates by hand. `norm_factor` is 1 if the SAE takes raw
    activations. Otherwise the weights belong to the space of x / norm_factor, and `folded` returns the SAE for raw
    ones.
    """

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    theta: Tensor

    def __init__(
        self,
        d_model: int,
        n_latents: int,
        group_sizes: Sequence[int],
        k: int,
        *,
        core: Tensor | None = None,
        core_sparsity: CoreSparsity = "dense",
        core_decoder_init: CoreDecoderInit = "random",
        seed: int = 0,
    ) -> None:
        """Make a fresh SAE; its random numbers come from its own generator, seeded by `seed`.

        Decoder rows start as SAEBench's do (kaiming-uniform, then unit norm). Non-core encoder rows start equal to the
        decoder rows, and biases at 0.

        Args:
            d_model: d, the width of the residual stream.
            n_latents: m, the number of latents, core included.
            group_sizes: sizes of the non-core groups. They add up to n_latents - n_core, or to n_latents: then the last
                group gives up the core's latents, see `groups.non_core_groups`.
            k: target L0 of the baseline.
            core: [n_core, d], the frozen encoder rows; None for no core.
            core_sparsity: 'dense' exempts the core from BatchTopK (Eq. 3); 'sparse' does not.
            core_decoder_init: 'random' starts the decoder rows of the core like the others; 'tied' starts them as the
                encoder rows with unit norm.
            seed: seed of the initial weights.

        Raises:
            ConfigError: the combination cannot work.
        """
        super().__init__()
        for name, value in (("d_model", d_model), ("n_latents", n_latents), ("k", k)):
            if not is_whole(value) or value < 1:
                raise ConfigError(f"{name}: {value!r} must be a whole number, at least 1")
        if core_sparsity not in ("dense", "sparse"):
            raise ConfigError(f"core_sparsity: {core_sparsity!r} must be 'dense' or 'sparse'")
        if core_decoder_init not in ("random", "tied"):
            raise ConfigError(f"core_decoder_init: {core_decoder_init!r} must be 'random' or 'tied'")
        if core is not None and (core.ndim != 2 or core.shape[1] != d_model):
            raise ConfigError(f"core: shape {list(core.shape)} must be [n_core, d_model = {d_model}]")
        self.d_model, self.n_latents, self.k, self.seed = d_model, n_latents, k, seed
        self.n_core = 0 if core is None else len(core)
        self.core_sparsity: CoreSparsity = core_sparsity
        self.core_decoder_init: CoreDecoderInit = core_decoder_init
        self.group_sizes = non_core_groups(group_sizes, n_latents, self.n_core)
        self.prefix_sizes = tuple(accumulate(self.group_sizes))
        self.non_core_k = max(1, round(k * (n_latents - self.n_core) / n_latents))
        if self.topk_budget > self.n_topk:
            raise ConfigError(f"k: {k!r} must be at most {self.n_topk}, the latents under BatchTopK")
        self.norm_factor = 1.0
        decoder, encoder = _initial_weights(d_model, n_latents, core, core_decoder_init, seed)
        self.W_enc = nn.Parameter(encoder, requires_grad=False)
        self.b_enc = nn.Parameter(torch.zeros(n_latents), requires_grad=False)
        self.W_dec = nn.Parameter(decoder, requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(d_model), requires_grad=False)
        self.register_buffer("theta", torch.tensor(UNSET_THRESHOLD, dtype=torch.float32))

    @property
    def n_dense(self) -> int:
        """Latents exempt from BatchTopK: the core if it is dense (Eq. 3), otherwise none."""
        return self.n_core if self.core_sparsity == "dense" else 0

    @property
    def n_topk(self) -> int:
        """Latents under BatchTopK: rows n_dense..m-1."""
        return self.n_latents - self.n_dense

    @property
    def topk_budget(self) -> int:
        """Latents that BatchTopK keeps per token.

        k' = max(1, round(k (m - c) / m)) beside a dense core (Eq. 4), otherwise k.
        """
        return self.k if self.core_sparsity == "sparse" else self.non_core_k

    @property
    def threshold(self) -> Tensor:
        """[m] float32, the inference threshold of each latent: 0 on a dense core, theta elsewhere."""
        thresholds = self.theta.repeat(self.n_latents)
        thresholds[: self.n_dense] = 0.0
        return thresholds

    def pool_size(self, groups: int = 1) -> int:
        """Return the number of latents in the core and the first `groups` groups, rows 0..pool_size-1.

        Raises:
            ConfigError: `groups` is not between 1 and the number of groups.
        """
        if not 1 <= groups <= len(self.group_sizes):
            raise ConfigError(f"groups: {groups!r} is not in 1..{len(self.group_sizes)}")
        return self.n_core + self.prefix_sizes[groups - 1]

    def encode(self, x: Tensor) -> Tensor:
        """Return z [n, m] of x [n, d] (Eq. 1, 2), with the inference mask u > threshold."""
        return self.encode_range(x, 0, self.n_latents)

    def encode_pool(self, x: Tensor, groups: int = 1) -> Tensor:
        """Return z [n, pool_size(groups)]: the numbers of `encode`, but only these columns are computed."""
        return self.encode_range(x, 0, self.pool_size(groups))

    def encode_range(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return z [n, stop - start] of the latents start..stop-1: nothing else is computed."""
        u = self.pre_activations(x, start, stop)
        return u * (u > self.threshold[start:stop])

    def pre_activations(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return u [n, stop - start] of x [n, d] (Eq. 1) for the latents start..stop-1: before any mask."""
        centred = x.to(self.W_enc.dtype) - self.b_dec
        return torch.relu(centred @ self.W_enc[start:stop].T + self.b_enc[start:stop])

    def decode(self, z: Tensor) -> Tensor:
        """Return xhat [n, d] of z [n, m]."""
        return z @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction [n, d] of x [n, d] from all latents."""
        return self.decode(self.encode(x))

    def prefix_reconstructions(self, x: Tensor) -> Tensor:
        """Return [j, n, d]: xhat_j of x [n, d] from the core and the first j + 1 groups (Eq. 5)."""
        z, total, parts = self.encode(x), self.b_dec.expand(x.shape[0], -1), []
        start = 0
        for prefix in self.prefix_sizes:
            stop = self.n_core + prefix
            total = total + z[:, start:stop] @ self.W_dec[start:stop]
            parts.append(total)
            start = stop
        return torch.stack(parts)

    @torch.no_grad()
    def folded(self) -> "MatryoshkaSAE":
        """Return a copy that takes raw activations: biases and theta times norm_factor, W_enc and W_dec unchanged."""
        sae = copy.deepcopy(self)
        sae.b_enc.mul_(self.norm_factor)
        sae.b_dec.mul_(self.norm_factor)
        if float(self.theta) >= 0:
            sae.theta.mul_(self.norm_factor)
        sae.norm_factor = 1.0
        return sae


def _initial_weights(
    d_model: int, n_latents: int, core: Tensor | None, core_decoder_init: CoreDecoderInit, seed: int
) -> tuple[Tensor, Tensor]:
    """Return W_dec and W_enc [m, d]; with an empty core they are dictionary_learning's for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    bound = math.sqrt(6.0 / d_model)
    decoder = torch.empty(n_latents, d_model)
    if decoder.is_meta:  # weights come from a file; norms on this device would import torch's compiler, for a second
        return decoder, torch.empty_like(decoder)
    decoder.uniform_(-bound, bound, generator=generator)
    decoder = unit_rows(decoder)
    encoder = decoder.clone()
    if core is not None and len(core):
        rows = core.detach().to(device=decoder.device, dtype=torch.float32)
        encoder[: len(rows)] = rows
        if core_decoder_init == "tied":
            decoder[: len(rows)] = unit_rows(rows)
    return decoder, encoder


def unit_rows(rows: Tensor) -> Tensor:
    """Return rows [n, d] divided by their norms as dictionary_learning does it: row / (norm + machine epsilon)."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / (norms + torch.finfo(rows.dtype).eps)
