"""Evaluated SAEs of one sweep or several: which arm each is of, and the values of a number by arm and sparsity.

The replicas are the seeds of a sweep. Of several sweeps, which transfer cores of several bearing seeds, they are the
sweeps: the seeds of each count as one, by their mean, since SAEs around one core are no independent evidence.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dmsae_ray.config import Axes, axes_label, axes_order, of_training
from dmsae_ray.distill import DISTILLED, CycleReport
from dmsae_ray.plan import CycleSetting, times_the_tokens
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.report.quality_metrics import scale_of
from dmsae_ray.results import TrialResult, cycle_name

NO_CORE = "baseline"
"""The arm without a core: cycle 0 of distillation, and the baseline of a transfer."""


@dataclass(frozen=True)
class EvaluatedSAE:
    """A trained SAE with the numbers that evaluations gave.

    Attributes:
        result: its trial.
        report: its cycle.
        sweep: name of its sweep.
        metrics: numbers by evaluation and name, as 'core/ce_loss_score'.
    """

    result: TrialResult
    report: CycleReport
    sweep: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Key of the cycle; two SAEs with one key are the same."""
        return self.report.key

    @property
    def name(self) -> str:
        """Trial, and cycle or control."""
        return f"{self.result.trial_id}, {cycle_name(self.report.arm, self.report.cycle)}"

    @property
    def k(self) -> int:
        """Nominal sparsity."""
        return self.result.setting.k

    @property
    def seed(self) -> int:
        """Seed of its trial."""
        return self.result.trial.seed

    @property
    def l0(self) -> float:
        """Measured total L0, core included; NaN if it was not measured."""
        return self.report.metrics.get("l0", math.nan)

    @property
    def arm(self) -> "Arm":
        """What it was trained around."""
        if self.report.n_core_in == 0:
            return Arm(NO_CORE, budget=self.result.trial.budget, axes=of_training(self.result.setting.axes))
        setting, report = self.result.setting, self.report
        if not isinstance(setting, CycleSetting):
            return Arm(report.arm, setting.core_sparsity, axes=setting.axes)
        cycle = None if report.cycle == self.result.last.cycle else report.cycle
        size = f"τ = {setting.selects}" if setting.core_size is None else setting.selects
        return Arm(report.arm, setting.core_sparsity, size, cycle, axes=setting.axes)

    @property
    def whole_flops(self) -> float:
        """FLOP of its training and of those that made its core: of its trial before it, or of a given core.

        NaN where the trainings of a given core are not known, see `TrialResult.whole_flops`.
        """
        if not isinstance(self.result.setting, CycleSetting):
            whole = self.result.whole_flops
            return math.nan if whole is None else whole
        chain = next((c.reports for c in self.result.chains.values() if self.report in c.reports), None)
        before = [r for r in self.result.reports if r.cycle < (self.report.cycle if chain is None else 1)]
        before += [r for r in chain or () if r.cycle < self.report.cycle]
        return self.report.flops + sum(report.flops for report in before)


@dataclass(frozen=True)
class Arm:
    """What SAEs are trained around.

    Attributes:
        core: 'distilled', a control, or `NO_CORE`.
        sparsity: 'dense' or 'sparse'; empty without a core.
        selects: how the core was selected; empty where that is the same for all.
        cycle: the cycle, if it is not the last; None otherwise.
        budget: training tokens of SAEs without a core, as a multiple of recipe.tokens.
        axes: values of further axes of the grid; without a core, of those that touch its training.
    """

    core: str
    sparsity: str = ""
    selects: str = ""
    cycle: int | None = None
    budget: float = 1.0
    axes: Axes = ()

    @property
    def label(self) -> str:
        """A short name for tables and figures."""
        if self.core == NO_CORE:
            return ", ".join(filter(None, ("no core", times_the_tokens(self.budget), axes_label(self.axes))))
        name = "distilled core" if self.core == DISTILLED else f"{self.core.replace('_', ' ')} core"
        parts = [
            name,
            self.sparsity,
            self.selects,
            axes_label(self.axes),
            "" if self.cycle is None else f"cycle {self.cycle}",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key: distilled, no core, controls."""
        return (
            self.core != DISTILLED,
            self.core != NO_CORE,
            f"{self.sparsity} {self.selects} {self.core}",
            axes_order(self.axes),
            self.cycle or 0,
            self.budget,
        )

    def is_without_core_of(self, other: "Arm") -> bool:
        """Whether it stands for SAEs without a core that were trained as those of another arm, but for the core."""
        return self.core == NO_CORE and self.axes == of_training(other.axes)


Replica = str | int
"""A seed, or of several sweeps the sweep."""


class Evaluated:
    """The evaluated SAEs, and their values by arm, k and replica."""

    def __init__(self, saes: Iterable[EvaluatedSAE]) -> None:
        every = list(saes)
        self.several = len({sae.sweep for sae in every}) > 1
        # Trials that differ in coverage share cycle 0; it counts once.
        self.saes = list({(sae.sweep, sae.key, sae.arm): sae for sae in every}.values())

    @cached_property
    def arms(self) -> list[Arm]:
        """All arms: distilled ones, no core, controls."""
        return sorted({sae.arm for sae in self.saes}, key=lambda arm: arm.order)

    @cached_property
    def names(self) -> list[str]:
        """Names of all numbers that some SAE has."""
        return list(dict.fromkeys(name for sae in self.saes for name in sae.metrics))

    def ks(self, arm: Arm) -> list[int]:
        """Return the sparsities of an arm."""
        return sorted({sae.k for sae in self.saes if sae.arm == arm})

    def of(self, arm: Arm) -> list[EvaluatedSAE]:
        """Return the SAEs of an arm."""
        return [sae for sae in self.saes if sae.arm == arm]

    def curves(self, arm: Arm, name: str) -> dict[tuple[str, int], list[tuple[float, float]]]:
        """Return (measured L0, value) of the SAEs of an arm by sweep and seed, by ascending L0."""
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for sae in self.of(arm):
            value = value_of(sae, name)
            if not math.isnan(value) and not math.isnan(sae.l0):
                found.setdefault((sae.sweep, sae.seed), []).append((sae.l0, value))
        return {replica: sorted(points) for replica, points in found.items()}

    def estimate(self, arm: Arm, k: int, name: str) -> Estimate:
        """Return a number of an arm at a sparsity over the replicas; `name` 'l0' is the measured L0."""
        values: dict[Replica, list[float]] = {}
        for sae in self.of(arm):
            value = value_of(sae, name)
            if sae.k == k and not math.isnan(value):
                values.setdefault(sae.sweep if self.several else sae.seed, []).append(value)
        means = [_mean(found) for _, found in sorted(values.items(), key=str)]
        return estimate(means, scale_of(name))

    def by_replica(self, values: Mapping[tuple[str, int], float]) -> dict[int, float]:
        """Return values of sweeps and seeds as values of replicas, numbered; of a sweep the mean over its seeds."""
        if not self.several:
            return {seed: value for (_, seed), value in values.items()}
        sweeps = sorted({sae.sweep for sae in self.saes})
        found: dict[int, list[float]] = {}
        for (sweep, _), value in values.items():
            found.setdefault(sweeps.index(sweep), []).append(value)
        return {number: _mean(own) for number, own in found.items()}


def value_of(sae: EvaluatedSAE, name: str) -> float:
    """Return a number of an SAE; NaN if it has none."""
    return sae.l0 if name == "l0" else sae.metrics.get(name, math.nan)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
