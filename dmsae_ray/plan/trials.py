"""The grid of an experiment: which trials there are, in which order, under which names."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from dmsae_ray.config import CoreSparsity, Experiment

Arm = Literal["distilled", "gaussian", "baseline"]
Params = dict[str, int | float | str]


@dataclass(frozen=True)
class CycleSetting:
    """A setting of train-and-select cycles (Algorithm 1); its replicas differ in their seeds only."""

    k: int
    coverage: float
    core_sparsity: CoreSparsity

    @property
    def trial_name(self) -> str:
        """Its part of a trial's name."""
        return f"k{self.k}-tau{self.coverage!r}"

    @property
    def label(self) -> str:
        """A short name for tables and figures, such as 'k=20 τ=0.9'."""
        return f"k={self.k} τ={self.coverage:g}"

    @property
    def order(self) -> tuple[int, float, str, str]:
        """Sort key: by k, then coverage."""
        return (self.k, self.coverage, "", self.core_sparsity)

    def params(self) -> Params:
        """What MLflow lists of it."""
        return {"k": self.k, "coverage": self.coverage, "core_sparsity": self.core_sparsity}


@dataclass(frozen=True)
class TransferSetting:
    """A setting of one training around a fixed core (Algorithm 3), or around none: the baseline."""

    k: int
    arm: Arm
    core_sparsity: CoreSparsity

    @property
    def trial_name(self) -> str:
        """Its part of a trial's name."""
        return f"k{self.k}-{self.core_sparsity}-{self.arm}"

    @property
    def label(self) -> str:
        """A short name for tables and figures, such as 'k=20 dense gaussian'."""
        return f"k={self.k} {self.arm}" if self.arm == "baseline" else f"k={self.k} {self.core_sparsity} {self.arm}"

    @property
    def order(self) -> tuple[int, float, str, str]:
        """Sort key: by k, then arm."""
        return (self.k, 0.0, self.arm, self.core_sparsity)

    def params(self) -> Params:
        """What MLflow lists of it."""
        return {"k": self.k, "core_sparsity": self.core_sparsity, "arm": self.arm}


Setting = CycleSetting | TransferSetting


@dataclass(frozen=True)
class Trial:
    """One trial: a setting of the grid with one seed.

    Attributes:
        setting: what the replicas share.
        seed: of the initial weights.
        data_seed: of the order of the training data.
    """

    setting: Setting
    seed: int
    data_seed: int

    @property
    def trial_id(self) -> str:
        """A name that says the setting, the same in every run of the sweep."""
        return f"{self.setting.trial_name}-seed{self.seed}"

    def params(self) -> Params:
        """Its parameters as plain values; `from_params` is the inverse."""
        return {**self.setting.params(), "seed": self.seed, "data_seed": self.data_seed}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Trial":
        """The trial of parameters that `params` gave.

        Raises:
            KeyError, TypeError, ValueError: a parameter is missing, or is not what it must be.
        """
        k, sparsity = int(params["k"]), params.get("core_sparsity", "dense")
        setting: Setting
        if params.get("arm") is None:
            setting = CycleSetting(k, float(params["coverage"]), sparsity)
        else:
            setting = TransferSetting(k, params["arm"], sparsity)
        return cls(setting, int(params["seed"]), int(params.get("data_seed", 0)))


def expand(experiment: Experiment) -> list[Trial]:
    """All trials of an experiment, replicas of a seed side by side, so that trials that share cycles start apart.

    A baseline has no core; it is trained once, not once for each core variant.
    """
    grid, transfer = experiment.sweep, experiment.transfer
    settings: list[Setting] = []
    if transfer is None:
        sparsity = experiment.sae.core_sparsity
        settings += [CycleSetting(k, tau, sparsity) for tau, k in product(experiment.coverages, experiment.ks)]
    else:
        for k, arm in product(experiment.ks, transfer.arms):
            sparsities = transfer.core_sparsity[:1] if arm == "baseline" else transfer.core_sparsity
            settings += [TransferSetting(k, arm, sparsity) for sparsity in sparsities]
    return [
        Trial(setting, seed, grid.data_seed + seed if grid.data_per_seed else grid.data_seed)
        for seed in grid.seeds
        for setting in settings
    ]
