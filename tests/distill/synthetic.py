"""Activations made from a known sparse dictionary, as a DataSource: small, fast, a pure function of the step."""

import dataclasses
import inspect
from dataclasses import dataclass

import torch

from dmsae_ray.distill.cycle_runner import CycleRunner
from dmsae_ray.distill.cycle_settings import CycleSettings
from dmsae_ray.distill.cycles import run_cycles
from dmsae_ray.sae.recipe import Recipe

D, FEATURES, BATCH, STEPS = 16, 48, 64, 40


@dataclass
class Synthetic:
    """x = sum of few true directions; g points along the first eight features, the ones that matter to the 'loss'."""

    seed: int = 0
    norm_factor: float = 2.5
    d_model: int = D
    rank: int = 0
    size: int = 1
    nan_at: int | None = None
    served: int = 0

    def __post_init__(self):
        generator = torch.Generator().manual_seed(self.seed)
        self.truth = torch.nn.functional.normalize(torch.randn(FEATURES, D, generator=generator), dim=1)
        self.probability = 0.5 / torch.arange(1, FEATURES + 1)

    @property
    def fingerprint(self):
        return f"synthetic-{self.seed}-{self.norm_factor}"

    def sample(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        on = torch.rand(n, FEATURES, generator=generator) < self.probability
        size = 1 + torch.rand(n, FEATURES, generator=generator)
        return 4 * (on * size) @ self.truth + 0.05 * torch.randn(n, D, generator=generator)

    def batches(self, start, stop):
        for step in range(start, stop):
            x = self.sample(BATCH, 1000 + step)
            if step == self.nan_at:
                x[3, 2] = torch.nan
            self.served += 1
            yield x[self.rank :: self.size]

    def attribution(self):
        generator = torch.Generator().manual_seed(7)
        g = torch.randn(600, 8, generator=generator) @ self.truth[:8]
        return self.sample(600, 5), g


def small_settings(**changes):
    recipe = Recipe(
        steps=changes.get("steps", STEPS),
        lr=1e-2,
        warmup_steps=2,
        decay_start=30,
        threshold_start_step=5,
        threshold_beta=0.9,
        dead_after_tokens=600,
    )
    base = CycleSettings(
        n_latents=64, group_sizes=(12, 20, 32), k=4, recipe=recipe, batch_size=BATCH, steps=STEPS, quantile=0.9
    )
    return dataclasses.replace(base, **changes)


_RUNNER = set(inspect.signature(CycleRunner).parameters) - {"settings", "source"}


def run(source=None, settings=None, **changes):
    """Run two small cycles; changes are arguments of `run_cycles` and of `CycleRunner`."""
    arguments = {"cycles": 2, "coverage": 0.9, "seed": 3} | changes
    of_runner = {name: arguments.pop(name) for name in _RUNNER & arguments.keys()}
    return run_cycles(CycleRunner(settings or small_settings(), source or Synthetic(), **of_runner), **arguments)
