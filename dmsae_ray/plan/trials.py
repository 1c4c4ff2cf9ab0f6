"""The grid of an experiment: which trials there are, in which order, under which names."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

from dmsae_ray.config import CoreSparsity, Experiment

Arm = Literal["distilled", "gaussian", "baseline"]


@dataclass(frozen=True)
class TrialSpec:
    """One trial: a setting of the grid with one seed.

    `coverage` is None and `arm` is set for a transfer (one training around a fixed core); for cycles it is the reverse.
    """

    k: int
    seed: int
    data_seed: int
    core_sparsity: CoreSparsity
    coverage: float | None = None
    arm: Arm | None = None

    @property
    def trial_id(self) -> str:
        """A name that says the setting, the same in every run of the sweep."""
        middle = f"tau{self.coverage!r}" if self.arm is None else f"{self.core_sparsity}-{self.arm}"
        return f"k{self.k}-{middle}-seed{self.seed}"

    @property
    def setting(self) -> tuple[int, float | None, str, str | None]:
        """What the replicas of a setting share."""
        return (self.k, self.coverage, self.core_sparsity, self.arm)

    def params(self) -> dict[str, int | float | str]:
        """Parameters of the trial as the tracking UI lists them."""
        named = {"k": self.k, "coverage": self.coverage, "seed": self.seed, "data_seed": self.data_seed}
        return {
            name: value
            for name, value in {**named, "core_sparsity": self.core_sparsity, "arm": self.arm}.items()
            if value is not None
        }


def expand(experiment: Experiment) -> list[TrialSpec]:
    """All trials of an experiment, replicas of a seed side by side, so that trials that share cycles start apart.

    A baseline has no core; it is trained once, not once for each core variant.
    """
    grid, transfer = experiment.sweep, experiment.transfer
    trials: list[TrialSpec] = []
    for seed in grid.seeds:
        data_seed = grid.data_seed + seed if grid.data_per_seed else grid.data_seed
        if transfer is None:
            trials += [
                TrialSpec(k, seed, data_seed, experiment.sae.core_sparsity, coverage=coverage)
                for coverage, k in product(experiment.coverages, experiment.ks)
            ]
            continue
        for k, arm in product(experiment.ks, transfer.arms):
            sparsities = transfer.core_sparsity[:1] if arm == "baseline" else transfer.core_sparsity
            trials += [TrialSpec(k, seed, data_seed, sparsity, arm=arm) for sparsity in sparsities]
    return trials
