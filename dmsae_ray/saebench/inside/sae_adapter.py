"""Our SAE as SAEBench takes one: a subclass of its BaseSAE with exactly our latents."""

import json
from pathlib import Path
from typing import Any

import sae_bench.custom_saes.base_sae as base_sae
import torch
from safetensors.torch import load_file
from torch import Tensor

_ROWS = 4096
"""Tokens that are encoded at once in float32."""


class MatryoshkaLatents(base_sae.BaseSAE):  # type: ignore[misc]
    """Latents u * (u > threshold) with u = relu((x - b_dec) W_enc + b_enc); the threshold is 0 on a dense core.

    SAEBench casts an SAE to the dtype of its language model. Latents are computed in float32 all the same, since a
    threshold in bfloat16 would let other latents fire; only what is returned has that dtype.

    Args:
        tensors: W_enc [m, d], b_enc [m], W_dec [m, d], b_dec [d] and threshold [m], for raw activations.
        model: what SAEBench calls the language model.
        layer: its block.
        device: where it computes.
        dtype: what SAEBench computes in.
    """

    def __init__(self, tensors: dict[str, Tensor], model: str, layer: int, device: torch.device, dtype: torch.dtype):
        m, d = tensors["W_enc"].shape
        self._exact: dict[str, Tensor] = {}
        super().__init__(d, m, model, layer, device, dtype)
        norms = tensors["W_dec"].norm(dim=1).clamp(min=1e-12)
        self._exact = {
            "W_enc": (tensors["W_enc"] * norms[:, None]).T.contiguous().to(device),
            "b_enc": (tensors["b_enc"] * norms).to(device),
            "W_dec": (tensors["W_dec"] / norms[:, None]).to(device),
            "b_dec": tensors["b_dec"].to(device),
            "threshold": (tensors["threshold"] * norms).to(device),
        }
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(self, name).data.copy_(self._exact[name])
        self.requires_grad_(False)
        self.cfg.architecture = "jumprelu"

    def to(self, *args: Any, **kwargs: Any) -> "MatryoshkaLatents":
        """Move or cast what SAEBench reads; the exact weights are only moved."""
        super().to(*args, **kwargs)
        self._exact = {name: tensor.to(self.W_enc.device) for name, tensor in self._exact.items()}
        self.cfg.dtype = str(self.dtype).removeprefix("torch.")
        return self

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents [..., m] of x [..., d], in the dtype of the SAE."""
        flat = x.reshape(-1, x.shape[-1])
        found = torch.empty(len(flat), self.cfg.d_sae, dtype=self.dtype, device=flat.device)
        w = self._exact
        for first in range(0, len(flat), _ROWS):
            rows = slice(first, first + _ROWS)
            u = torch.relu((flat[rows].float() - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
            found[rows] = (u * (u > w["threshold"])).to(self.dtype)
        return found.reshape(*x.shape[:-1], self.cfg.d_sae)

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Return the reconstruction [..., d] of latents [..., m]."""
        if self.dtype == torch.float32:
            found: Tensor = feature_acts @ self._exact["W_dec"] + self._exact["b_dec"]
            return found
        found = feature_acts @ self.W_dec + self.b_dec
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction [..., d] of x [..., d]."""
        return self.decode(self.encode(x))


def load(folder: Path, model: str, layer: int, context: int, device: str, dtype: torch.dtype) -> MatryoshkaLatents:
    """Load the SAE in a folder of dmsae_ray's format, for raw activations."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "sae.safetensors")
    threshold = tensors["theta"].float().clamp(min=0).repeat(config["n_latents"])
    if config["core_sparsity"] == "dense":
        threshold[: config["n_core"]] = 0
    sae = MatryoshkaLatents({**tensors, "threshold": threshold}, model, layer, torch.device(device), dtype)
    sae.cfg.context_size = context
    lost = (tensors["W_dec"].norm(dim=1) == 0).nonzero().flatten().tolist()
    if lost or not sae.check_decoder_norms():
        raise ValueError(f"the SAE's decoder has rows of length 0, which SAEBench refuses: latents {lost[:5]}")
    return sae
