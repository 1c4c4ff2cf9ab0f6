"""The figures that one training step reports."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepStats:
    """Figures of one step over the global batch, as tensors on the trainer's device: to make them waits for nothing."""

    loss: Tensor
    """[] mean over prefixes of the weighted losses, plus auxk_alpha * aux_loss."""
    prefix_mse: Tensor
    """[j] mean over tokens of ||x - xhat_j||^2, unweighted (Eq. 5)."""
    aux_loss: Tensor
    """[] normalised AuxK loss; 0 if no latent is dead."""
    l0_core: Tensor
    """[] active core latents per token (Eq. 9)."""
    l0_non_core: Tensor
    """[] active other latents per token (Eq. 9)."""
    dead: Tensor
    """[] number of latents that are silent for `dead_after_tokens`."""
    grad_norm: Tensor
    """[] norm of the gradient before clipping."""
    lr: float
    """Learning rate of this step."""
    threshold: Tensor
    """[] theta after this step; -1 until it is estimated."""

    def floats(self) -> dict[str, float]:
        """Return the figures by name, with prefix_mse as prefix_mse_0, prefix_mse_1, …; waits for the device once."""
        names: list[str] = []
        parts: list[Tensor] = []
        for field in fields(self):
            value = torch.as_tensor(getattr(self, field.name)).detach().double().reshape(-1)
            parts.append(value)
            several = field.name == "prefix_mse"
            names += [f"{field.name}_{j}" for j in range(len(value))] if several else [field.name]
        device = self.loss.device
        return dict(zip(names, torch.cat([part.to(device) for part in parts]).tolist(), strict=True))
