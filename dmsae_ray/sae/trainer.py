"""The training of one SAE, step by step, in one process or over a process group."""

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
    """Trains `sae` in place by SAEBench's Matryoshka recipe; the encoder rows of the core are never changed.

    The order of a step is that of dictionary_learning: (step 0: b_dec = geometric median) forward, threshold, silence
    counters, AuxK, backward, projection, clipping, Adam, unit decoder norm.

    Args:
        sae: the dictionary.
        recipe: how it is trained.
        process_group: its ranks hold the same dictionary and pass different rows. Selection, statistics and gradients
            are over the rows of all ranks, and all ranks end with the same weights.
        compute_dtype: dtype to which the factors of large products are rounded on CUDA; their sums and everything else
            are float32. The CPU computes in the dictionary's own dtype.

    Attributes:
        sae: the dictionary, which each step changes.
        recipe: the recipe.
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
        """Number of steps taken, those before a resumption included."""
        return self._adam.steps

    @torch.no_grad()
    def step(self, x: Tensor, *, global_rows: int | None = None) -> StepStats:
        """Make one update, and return the figures of this step.

        If x holds NaN or infinity, or if the numbers overflow, the figures show it (loss and grad_norm are not finite)
        and the weights stay as they are; HealthMonitor recognises it.

        Args:
            x: [b, d], this rank's rows of the batch, already divided by the norm factor.
            global_rows: rows of all ranks together; if it is None, they are counted.

        Raises:
            ConfigError: x is not a tensor [rows, d_model], or no rank has rows.
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
        """Return all that determines the following steps: numbers, and tensors in the host's memory.

        It is a copy: later steps do not change it. `torch.load` reads it with weights_only.
        """
        sae, adam, silence = self.sae.state_dict(), self._adam.state_dict(), self._silence.state_dict()
        return tree_map_only(Tensor, _on_host, {"sae": sae, "adam": adam, "silence": silence})  # type: ignore[no-any-return]

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the place where `state` was taken.

        Raises:
            DataError: the state does not fit this dictionary.
        """
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
        """Update theta, the running mean of the smallest positive kept activation; the first value is assigned."""
        theta, beta = self.sae.theta, self.recipe.threshold_beta
        smallest = smallest.to(theta.dtype)
        moved = torch.where(theta < 0, smallest, beta * theta + (1 - beta) * smallest)
        theta.copy_(torch.where(finite, moved, theta))


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
