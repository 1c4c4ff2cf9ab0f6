"""The grid of an experiment: its trials, their order and their names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from dmsae_ray.config import (
    Axes,
    CoreSparsity,
    Experiment,
    axes_label,
    axes_name,
    axes_order,
    frozen,
    of_training,
)

Arm = Literal["distilled", "gaussian", "gaussian_unit", "baseline"]
Params = dict[str, Any]
"""Parameters of a trial, by name: numbers and texts; those of further axes have dotted names."""
Order = tuple[int, float, str, str, float, tuple[tuple[str, bool, float, str], ...]]


@dataclass(frozen=True)
class CycleSetting:
    """A setting of train-and-select cycles (Algorithm 1); its replicas differ only in their seeds.

    Attributes:
        k: Sparsity of the SAEs.
        coverage: Attribution coverage τ.
        core_sparsity: 'dense' if the core is exempt from BatchTopK (Eq. 3), 'sparse' if it is not.
        core_size: Number of latents that are selected, in place of a coverage; None: by coverage.
        axes: Values of further axes of the grid, by the dotted names of the settings.
    """

    k: int
    coverage: float
    core_sparsity: CoreSparsity
    core_size: int | None = None
    axes: Axes = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", frozen(self.axes))  # in JSON they are lists

    @property
    def trial_name(self) -> str:
        """The part of a trial's name that says the setting."""
        how = f"tau{self.coverage!r}" if self.core_size is None else f"best{self.core_size}"
        return f"k{self.k}-{how}{axes_name(self.axes)}"

    @property
    def label(self) -> str:
        """A short name for tables and figures, such as 'k=20 τ=0.9' or 'k=20 best 32'."""
        how = f"τ={self.coverage:g}" if self.core_size is None else self.selects
        return f"k={self.k} {how} {axes_label(self.axes)}".rstrip()

    @property
    def selects(self) -> str:
        """What is selected, as a cell of a table: the coverage, such as '0.9', or 'best 32'."""
        return f"{self.coverage:g}" if self.core_size is None else f"best {self.core_size}"

    @property
    def order(self) -> Order:
        """Sort key: k, then coverage, then the further axes."""
        return (self.k, self.coverage, "", self.core_sparsity, 1.0, axes_order(self.axes))

    def params(self) -> Params:
        """Return the parameters that MLflow lists for this setting."""
        how: Params = {"coverage": self.coverage} if self.core_size is None else {"core_size": self.core_size}
        return {"k": self.k, **how, "core_sparsity": self.core_sparsity, **dict(self.axes)}


def times_the_tokens(budget: float) -> str:
    """Return a budget as words, such as '9 times the tokens'; empty for 1."""
    return "" if budget == 1 else f"{budget:g} times the tokens"


@dataclass(frozen=True)
class TransferSetting:
    """A setting of one training around a fixed core (Algorithm 3), or around no core: the baseline.

    Attributes:
        k: Sparsity of the SAE.
        arm: The core that is used: 'distilled', its 'gaussian' control, that of norm 1, or none in the 'baseline'.
        core_sparsity: 'dense' if the core is exempt from BatchTopK (Eq. 3), 'sparse' if it is not.
        budget: Training tokens, as a multiple of recipe.tokens.
        axes: Values of further axes of the grid, by the dotted names of the settings; of a baseline those on which
            its training depends.
    """

    k: int
    arm: Arm
    core_sparsity: CoreSparsity
    budget: float = 1.0
    axes: Axes = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", frozen(self.axes))

    @property
    def trial_name(self) -> str:
        """The part of a trial's name that says the setting."""
        longer = "" if self.budget == 1 else f"-x{self.budget!r}".removesuffix(".0")
        return f"k{self.k}-{self.core_sparsity}-{self.arm}{longer}{axes_name(self.axes)}"

    @property
    def label(self) -> str:
        """A short name for tables and figures, such as 'k=20 dense gaussian' or 'k=20 baseline, 9 times the tokens'."""
        arm = self.arm if self.arm == "baseline" else f"{self.core_sparsity} {self.arm}"
        parts = (f"k={self.k} {arm}", times_the_tokens(self.budget), axes_label(self.axes))
        return ", ".join(part for part in parts if part)

    @property
    def order(self) -> Order:
        """Sort key: k, then arm, then the further axes."""
        return (self.k, 0.0, self.arm, self.core_sparsity, self.budget, axes_order(self.axes))

    def params(self) -> Params:
        """Return the parameters that MLflow lists for this setting."""
        longer: Params = {} if self.budget == 1 else {"budget": self.budget}
        return {"k": self.k, "core_sparsity": self.core_sparsity, "arm": self.arm, **longer, **dict(self.axes)}


Setting = CycleSetting | TransferSetting


def axes_of(settings: Iterable[Setting]) -> tuple[str, ...]:
    """Return the further axes that any of the settings has a value of, sorted."""
    return tuple(sorted({path for setting in settings for path, _ in setting.axes}))


@dataclass(frozen=True)
class Trial:
    """One trial: a setting of the grid with one seed.

    Attributes:
        setting: What its replicas share.
        seed: Seed of the initial weights.
        data_seed: Seed of the order of the training data.
        length: What recipe.tokens is at the trial's point of the further axes, as a multiple of that in the file: not 1
            where recipe.tokens or recipe.batch_size are axes. Only `expand` knows it.
    """

    setting: Setting
    seed: int
    data_seed: int
    length: float = field(default=1.0, compare=False)

    @property
    def trial_id(self) -> str:
        """A name that says setting and seed; it is the same in every run of the sweep."""
        return f"{self.setting.trial_name}-seed{self.seed}"

    @property
    def budget(self) -> float:
        """Tokens of each of its trainings, as a multiple of recipe.tokens in the file."""
        return self.length * (self.setting.budget if isinstance(self.setting, TransferSetting) else 1.0)

    @property
    def cycle_0(self) -> tuple[object, ...] | None:
        """What its cycle 0 depends on, apart from what the whole grid shares; None for a transfer.

        Trials of the same value have the same cycle 0.
        """
        if not isinstance(self.setting, CycleSetting):
            return None
        return (self.setting.k, of_training(self.setting.axes), self.seed, self.data_seed)

    def params(self) -> Params:
        """Return the parameters as plain values; `from_params` is the inverse."""
        return {**self.setting.params(), "seed": self.seed, "data_seed": self.data_seed}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Trial":
        """Return the trial whose `params` are given.

        Raises:
            KeyError: A parameter is missing.
            TypeError: A parameter has the wrong type.
            ValueError: A parameter has a value that cannot be read.
        """
        k, sparsity = int(params["k"]), params.get("core_sparsity", "dense")
        axes = tuple(sorted((name, value) for name, value in params.items() if "." in name))
        setting: Setting
        if params.get("arm") is None:
            size = params.get("core_size")
            if size is None:
                setting = CycleSetting(k, float(params["coverage"]), sparsity, axes=axes)
            else:
                setting = CycleSetting(k, 1.0, sparsity, int(size), axes)
        else:
            setting = TransferSetting(k, params["arm"], sparsity, float(params.get("budget", 1.0)), axes)
        return cls(setting, int(params["seed"]), int(params.get("data_seed", 0)))


def expand(experiment: Experiment) -> list[Trial]:
    """Return all trials of an experiment, seed by seed, with those that share cycle 0 (same k and seed) set apart.

    A baseline has no core, so it is trained once, not once for each core sparsity, nor for each value of a further axis
    that says how a core is used or what is selected. Those of another k than the grid's, or of another budget than 1,
    come behind the others.
    """
    grid, whole = experiment.sweep, experiment.recipe.whole_tokens
    settings = {
        setting: at.recipe.whole_tokens / whole
        for axes, at in ((axes, experiment.at(axes)) for axes in experiment.points)
        for setting in _settings(at, axes)
    }
    return [
        Trial(setting, seed, grid.data_seed + seed if grid.data_per_seed else grid.data_seed, length)
        for seed in grid.seeds
        for setting, length in settings.items()
    ]


def _settings(experiment: Experiment, axes: Axes) -> list[Setting]:
    """Return the settings of a point of the further axes; `experiment` is that at this point."""
    transfer = experiment.transfer
    if transfer is None:
        sparsity, size = experiment.sae.core_sparsity, experiment.distill.core_size
        coverages = experiment.coverages if size is None else (1.0,)
        return [CycleSetting(k, tau, sparsity, size, axes) for tau, k in product(coverages, experiment.ks)]
    settings: list[Setting] = []
    baselines = [
        TransferSetting(k, "baseline", transfer.core_sparsity[0], budget, of_training(axes))
        for budget, k in product(transfer.baseline_budgets, experiment.baseline_ks)
        if "baseline" in transfer.arms
    ]
    for k, arm in product(experiment.ks, transfer.arms):
        if arm == "baseline":
            settings += [one for one in baselines if (one.k, one.budget) == (k, 1)]
        else:
            settings += [TransferSetting(k, arm, sparsity, axes=axes) for sparsity in transfer.core_sparsity]
    return settings + [one for one in baselines if one not in settings]
