"""One SAE's training, step by step, in one process or over a process group."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from dmsae_ray.errors import ConfigError, DataError, one_line
from dmsae_ray.sae.dead import SilenceCounter
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.gradients import Gradients
from dmsae_ray.sae.median import geometric_median
from dmsae_ray.sae.objective import Objective
from dmsae_ray.sae.optimizer import DecoderAdam
from dmsae_ray.sae.ranks import RankGroup
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.stats import StepStats


class SAETrainer:
    """Trains `sae` in place by SAEBench's Matryoshka recipe; the core's encoder rows are never touched.

    Step order, as the peer's: (step 0: b_dec = geometric median) forward, threshold, silence counters, AuxK, backward,
    projection, clipping, Adam, unit decoder norm.

    process_group: its ranks hold the same dictionary and pass different rows; selection, statistics and gradients are
        over all their rows, and all end with the same weights.
    compute_dtype: dtype that the factors of large products are rounded to on CUDA; their sums and everything else are
        float32. The CPU computes in the dictionary's own dtype.
    """

    def __init__(
        self,
        sae: MatryoshkaSAE,
        recipe: Recipe,
        *,
        process_group: dist.ProcessGroup | None = None,
        compute_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.sae, self.recipe = sae, recipe
        self._ranks = RankGroup(process_group)
        self._device = sae.W_enc.device
        self._silence = SilenceCounter(sae.n_latents, recipe.dead_after_tokens, self._device)
        self._objective = Objective(
            sae,
            self._silence,
            self._ranks,
            prefix_weights=recipe.prefix_weights(len(sae.group_sizes)),
            auxk_alpha=recipe.auxk_alpha,
            k_aux=sae.d_model // 2 if recipe.k_aux is None else recipe.k_aux,
            low=None if compute_dtype == torch.float32 or self._device.type == "cpu" else compute_dtype,
        )
        self._gradients = Gradients(sae)
        self._adam = DecoderAdam(sae, recipe)

    @property
    def steps_done(self) -> int:
        """Steps taken, those before a resumption included."""
        return self._adam.steps

    @property
    def tokens_since_fired(self) -> Tensor:
        """[m] int64: tokens for which each latent has been silent."""
        return self._silence.tokens

    @torch.no_grad()
    def step(self, x: Tensor, *, global_rows: int | None = None) -> StepStats:
        """One update from x [b, d], this rank's rows of the batch, already divided by the norm factor.

        Where x holds NaN or infinity, or the numbers overflow, the figures say so (loss and grad_norm are not finite)
        and the weights stay as they are; HealthMonitor recognises it.
        global_rows: rows of all ranks together; where it is not given and there are several, they are counted.
        """
        sae, step = self.sae, self.steps_done
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != sae.d_model:
            shape = list(x.shape) if isinstance(x, Tensor) else f"none, it is a {type(x).__name__}"
            raise ConfigError(f"x: shape {shape} must be that of a tensor [rows, d_model = {sae.d_model}]")
        x = x.to(device=self._device, dtype=sae.W_enc.dtype).contiguous()
        n_tokens = self._count_rows(len(x)) if global_rows is None else global_rows
        if n_tokens < 1:
            raise ConfigError("x: no rows on any rank; a batch needs at least 1")
        if step == 0:
            median = geometric_median(x, self._ranks)
            sae.b_dec.copy_(torch.where(torch.isfinite(median).all(), median, 0))
        loss = self._objective(x, n_tokens, self._gradients)
        if step > self.recipe.threshold_start_step:
            self._update_threshold(loss.smallest, torch.isfinite(loss.total))
        self._gradients.sum_over(self._ranks)
        lr = self.recipe.lr_at(step)
        grad_norm = self._adam.step(self._gradients, lr)
        return StepStats(
            loss=loss.total,
            prefix_mse=loss.prefix_mse,
            aux_loss=loss.aux,
            l0_core=loss.l0_core,
            l0_non_core=loss.l0_non_core,
            dead=self._silence.count(),
            grad_norm=grad_norm,
            lr=lr,
            threshold=sae.theta.clone(),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that determines the following steps, as it is now: tensors in the host's memory and numbers.

        A copy: steps taken later do not change it. `torch.load` reads it with weights_only.
        """
        sae, adam, silence = self.sae.state_dict(), self._adam.state_dict(), self._silence.state_dict()
        return tree_map_only(Tensor, _on_host, {"sae": sae, "adam": adam, "silence": silence})  # type: ignore[no-any-return]

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken; DataError where it is of another shape."""
        try:
            self.sae.load_state_dict(state["sae"])
            self._adam.load_state_dict(state["adam"])
            self._silence.load_state_dict(state["silence"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"trainer state: does not fit this dictionary ({one_line(error)})") from error

    def _count_rows(self, rows: int) -> int:
        if self._ranks.size == 1:
            return rows
        return int(self._ranks.sum(torch.full((), rows, dtype=torch.int64, device=self._device)))

    def _update_threshold(self, smallest: Tensor, finite: Tensor) -> None:
        """theta: running mean of the smallest positive kept activation; the first value is taken as it is."""
        theta, beta = self.sae.theta, self.recipe.threshold_beta
        smallest = smallest.to(theta.dtype)
        moved = torch.where(theta < 0, smallest, beta * theta + (1 - beta) * smallest)
        theta.copy_(torch.where(finite, moved, theta))


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
