"""From a trained cycle to the next core (Eq. 7, Algorithm 2), its report, and the controls for comparison."""

from dataclasses import dataclass, field, replace

import torch

from dmsae_ray.distill.controls import NEEDS_SAE, latent_core, random_core
from dmsae_ray.distill.core import Core
from dmsae_ray.distill.cycle_runner import CycleRun, CycleRunner
from dmsae_ray.distill.lineage import Origin, descend, overlap
from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.selection import agreement, select_core
from dmsae_ray.distill.trained_cycle import TrainedCycle


@dataclass(frozen=True)
class NextCore:
    """What every rank must know about a finished cycle.

    Attributes:
        report: the figures of the cycle.
        core: C_l, selected from the cycle; empty if the cycle collapsed.
        controls: the control cores that are compared with C_l, by name.
        left_out: why a control could not be made, by name.
    """

    report: CycleReport
    core: Core
    controls: dict[str, Core]
    left_out: dict[str, str] = field(default_factory=dict)


def control_seed(seed: int, name: str) -> int:
    """Return the seed of the control `name` in a trial with seed `seed`."""
    return derive_seed(seed, "control", name)


def select_next_core(
    runner: CycleRunner,
    run: CycleRun,
    cycle: int,
    arm: str,
    trained_with: Core,
    *,
    coverage: float,
    seed: int,
    core_size: int | None = None,
    controls: tuple[str, ...] = (),
) -> NextCore:
    """Select C_l (Eq. 7) from cycle l, trained around `trained_with`; the result is the same on every rank.

    Args:
        runner: the runner that trained the cycle.
        run: the trained cycle.
        cycle: l, the number of the cycle.
        arm: 'distilled', or the name of another arm.
        trained_with: C_{l-1}, or the core that the arm has in its place.
        coverage: tau.
        seed: seed of the trial.
        core_size: select so many of the best in place of the coverage.
        controls: names of the control cores to make from the same SAE.
    """

    def select() -> NextCore:
        assert run.trained is not None, "the first rank has the trained cycle"
        trained = run.trained
        selected = torch.empty(0, dtype=torch.int64)
        if trained.collapsed is None:
            selected = select_core(trained.scores, coverage, core_size)
        lineage = descend(trained_with.lineage, cycle, selected.tolist())
        provenance = {
            "cycle": cycle,
            "arm": arm,
            "coverage": coverage,
            "seed": seed,
            "k": runner.settings.k,
            "n_latents": trained.sae.n_latents,
            **({} if core_size is None else {"core_size": core_size}),
            **runner.settings.scoring(cycle),
            "data": runner.source.fingerprint,
            "key": run.key,
            # A given SAE (seed 0) was borne by no trial.
            "bearing_seeds": {
                **trained_with.provenance.get("bearing_seeds", {}),
                **({run.key: seed} if run.seed else {}),
            },
        }
        w_enc = trained.sae.W_enc.detach()

        def origin(latent: int) -> Origin | None:
            return trained_with.origins[latent] if latent < len(trained_with) else Origin(run.key, latent)

        origins = tuple(map(origin, selected.tolist()))
        core = Core(w_enc[selected.to(w_enc.device)], lineage, provenance, origins)
        made: dict[str, Core] = {}
        left_out: dict[str, str] = {}
        for name in controls if trained.collapsed is None else ():
            draw = control_seed(seed, name)
            control: Core | None
            if name in NEEDS_SAE:
                control = latent_core(name, core, w_enc, trained.scores, trained.frequency, selected, draw)
                if control is not None:
                    learned = tuple(map(origin, control.provenance["latents"]))
                    bore = {"bearing_seeds": provenance["bearing_seeds"]}
                    control = replace(control, provenance={**control.provenance, **bore}, origins=learned)
            else:
                control = random_core(name, core, draw)
            if control is not None:
                made[name] = control
            else:
                left_out[name] = f"the pool of {len(trained.scores)} has too few others for a core of {len(core)}"
        report = _report(run, trained, cycle, arm, trained_with, core)
        if trained.half_scores is not None:
            first, second = (select_core(scores, coverage, core_size) for scores in trained.half_scores)
            report = replace(report, retest=agreement(first, second))
        if trained.square_scores is not None and len(selected):
            by_square = select_core(trained.square_scores, coverage, len(selected))
            report = replace(report, by_square=agreement(selected, by_square))
        return NextCore(report, core, made, left_out)

    return runner.ranks.share(select)


def _report(run: CycleRun, trained: TrainedCycle, cycle: int, arm: str, trained_with: Core, core: Core) -> CycleReport:
    pool = len(trained.scores)
    seen = overlap(trained_with.lineage, core.lineage, pool) if cycle > 0 else None
    return CycleReport(
        cycle=cycle,
        arm=arm,
        key=run.key,
        seed=run.seed,
        n_core_in=len(trained_with),
        n_core=len(core),
        pool=pool,
        carried=seen.carried if seen else None,
        carryover=seen.carryover if seen else None,
        chance=seen.chance if seen else None,
        new=seen.new if seen else None,
        jaccard=seen.jaccard if seen else None,
        core_share=trained.core_share,
        collapsed=trained.collapsed,
        tokens=trained.tokens,
        flops=trained.flops,
        seconds=trained.seconds,
        cached=run.cached,
        metrics=trained.metrics,
        troubles=trained.health.troubles,
    )
