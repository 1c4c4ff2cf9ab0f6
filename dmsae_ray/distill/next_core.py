"""From a cycle's outcome to the next core, its record, and the controls that will stand beside it."""

from dataclasses import dataclass

import torch

from dmsae_ray.distill.controls import NEEDS_SAE, gaussian_core, latent_core
from dmsae_ray.distill.core import Core
from dmsae_ray.distill.cycle_runner import Found, Runner
from dmsae_ray.distill.lineage import descend, overlap
from dmsae_ray.distill.outcome import CycleOutcome
from dmsae_ray.distill.reports import CycleRecord
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.selection import select_core


@dataclass(frozen=True)
class Conclusion:
    """What every rank must know about a finished cycle."""

    record: CycleRecord
    core: Core
    controls: dict[str, Core]


def control_seed(seed: int, name: str) -> int:
    """Seed of the control `name` of a trial with `seed`."""
    return derive_seed(seed, "control", name)


def conclude(
    runner: Runner,
    found: Found,
    cycle: int,
    arm: str,
    trained_with: Core,
    *,
    coverage: float,
    seed: int,
    controls: tuple[str, ...] = (),
) -> Conclusion:
    """Selects C_l (Eq. 7) from the outcome of cycle `cycle`, trained around `trained_with`; the same on every rank.

    With `controls`, control cores that stand against C_l are made from the same SAE.
    """

    def decide() -> Conclusion:
        assert found.outcome is not None, "the first rank has the outcome"
        outcome = found.outcome
        selected = torch.empty(0, dtype=torch.int64)
        if outcome.collapsed is None:
            selected = select_core(outcome.scores, coverage)
        lineage = descend(trained_with.lineage, cycle, selected.tolist())
        provenance = {
            "cycle": cycle,
            "arm": arm,
            "coverage": coverage,
            "seed": seed,
            "k": runner.settings.k,
            "n_latents": outcome.sae.n_latents,
            **runner.settings.scoring(),
            "data": runner.source.fingerprint,
            "key": found.key,
        }
        w_enc = outcome.sae.W_enc.detach()
        core = Core(w_enc[selected.to(w_enc.device)], lineage, provenance)
        made = {}
        for name in controls if outcome.collapsed is None else ():
            lot = control_seed(seed, name)
            control: Core | None = gaussian_core(core, lot)
            if name in NEEDS_SAE:
                control = latent_core(name, core, w_enc, outcome.scores, outcome.frequency, selected, lot)
            if control is not None:
                made[name] = control
        return Conclusion(_record(found, outcome, cycle, arm, trained_with, core), core, made)

    return runner.ranks.share(decide)


def _record(found: Found, outcome: CycleOutcome, cycle: int, arm: str, trained_with: Core, core: Core) -> CycleRecord:
    pool = len(outcome.scores)
    seen = overlap(trained_with.lineage, core.lineage, pool) if cycle > 0 else None
    return CycleRecord(
        cycle=cycle,
        arm=arm,
        key=found.key,
        seed=found.seed,
        n_core_in=len(trained_with),
        n_core=len(core),
        pool=pool,
        carried=seen.carried if seen else None,
        carryover=seen.carryover if seen else None,
        chance=seen.chance if seen else None,
        new=seen.new if seen else None,
        jaccard=seen.jaccard if seen else None,
        core_share=outcome.core_share,
        collapsed=outcome.collapsed,
        tokens=outcome.tokens,
        flops=outcome.flops,
        seconds=outcome.seconds,
        cached=found.cached,
        metrics=outcome.metrics,
        troubles=outcome.health.troubles,
    )
