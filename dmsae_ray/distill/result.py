"""The result of a trial: every core from C_0 to C_L, what was measured in each cycle, and the distilled core."""

from dataclasses import dataclass, field
from typing import Any

from dmsae_ray.distill.core import Core, distilled_core
from dmsae_ray.distill.lineage import survival
from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.sae import MatryoshkaSAE


@dataclass(eq=False)
class Chain:
    """A control that stands in place of C_0 and runs through all cycles, as the core does.

    Attributes:
        reports: one per cycle, 1..L; a collapsed one is the last.
        cores: what stands in place of C_0..C_L, with lineage.
    """

    reports: list[CycleReport]
    cores: list[Core]

    @property
    def survivors(self) -> list[int]:
        """How many rows of the first core are in it and in each later one."""
        return survival([core.lineage for core in self.cores]).get(0, [0] * len(self.cores))


@dataclass(eq=False)
class DistillationResult:
    """The result of `run_cycles`.

    Attributes:
        cycles: L.
        coverage: tau.
        seed: seed of the trial.
        min_cycles: see `distilled`; None for all cycles.
        reports: one per cycle of the distilled arm, 0..L (1..L if a core was given).
        cores: C_0..C_L with lineage; a collapsed cycle adds an empty core and is the last.
        control_reports: the last cycle with a control core in place of C_{L-1}, by the control's name.
        control_cores: these control cores, by name.
        chains: controls that run through all cycles, by the control's name.
        left_out: why a control could not be made, by its arm.
        collapsed_at: the cycle that collapsed, or None.
        collapse: the name of the collapse, or None.
        sae: the SAE of the last cycle (takes raw activations) on the first rank; None on the others.
    """

    cycles: int
    coverage: float
    seed: int
    min_cycles: int | None = None
    reports: list[CycleReport] = field(default_factory=list)
    cores: list[Core] = field(default_factory=list)
    control_reports: dict[str, CycleReport] = field(default_factory=dict)
    control_cores: dict[str, Core] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    collapsed_at: int | None = None
    collapse: str | None = None
    sae: MatryoshkaSAE | None = None

    @property
    def distilled(self) -> Core:
        """C* (Eq. 8): latents of the last core selected in every cycle 0..L, or in each of the last `min_cycles`."""
        return distilled_core(self.cores, self.min_cycles)

    @property
    def tokens(self) -> int:
        """Tokens trained on over all cycles of the distilled arm, cached ones included; without the controls."""
        return sum(r.tokens for r in self.reports)

    @property
    def flops(self) -> float:
        """FLOPs over all cycles of the distilled arm, cached ones included: what a rival of equal compute may cost."""
        return sum(r.flops for r in self.reports)

    @property
    def control_tokens(self) -> int:
        """Tokens trained on over all controls, cached ones included."""
        return sum(r.tokens for r in self._of_controls())

    @property
    def control_flops(self) -> float:
        """FLOPs over all controls, cached ones included."""
        return sum(r.flops for r in self._of_controls())

    def _of_controls(self) -> list[CycleReport]:
        return [*self.control_reports.values(), *(r for chain in self.chains.values() for r in chain.reports)]

    def survival(self) -> dict[int, list[int]]:
        """Return the survivors of every birth cohort, see lineage.survival."""
        return survival([core.lineage for core in self.cores])

    def summary(self) -> dict[str, Any]:
        """Return everything but the tensors, JSON-serialisable."""
        return {
            "cycles": self.cycles,
            "coverage": self.coverage,
            "seed": self.seed,
            "min_cycles": self.min_cycles,
            "collapsed_at": self.collapsed_at,
            "collapse": self.collapse,
            "core_sizes": [len(core) for core in self.cores],
            "distilled_size": len(self.distilled),
            "distilled_lineage": [list(i) for i in self.distilled.lineage],
            "lineage": [[list(i) for i in core.lineage] for core in self.cores],
            "survival": {str(birth): alive for birth, alive in self.survival().items()},
            "records": [r.as_dict() for r in self.reports],
            "controls": {name: r.as_dict() for name, r in self.control_reports.items()},
            "chains": {
                name: {"records": [r.as_dict() for r in chain.reports], "survivors": chain.survivors}
                for name, chain in self.chains.items()
            },
            "left_out": self.left_out,
            "tokens": self.tokens,
            "flops": self.flops,
            "flops_cached": sum(r.flops for r in self.reports if r.cached),
            "control_tokens": self.control_tokens,
            "control_flops": self.control_flops,
        }
