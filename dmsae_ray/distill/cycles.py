"""Algorithm 1: train, score, select, freeze and start again, L times. Nothing here knows of Ray."""

from collections.abc import Callable, Sequence

from dmsae_ray.distill.controls import NEEDS_SAE, check_controls, random_core
from dmsae_ray.distill.core import Core, empty_core
from dmsae_ray.distill.cycle_runner import CycleRun, CycleRunner
from dmsae_ray.distill.cycle_settings import check_width
from dmsae_ray.distill.next_core import NextCore, control_seed, select_next_core
from dmsae_ray.distill.reports import DISTILLED, CycleReport, chain_arm
from dmsae_ray.distill.result import Chain, DistillationResult
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.selection import check_coverage, check_size
from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import MatryoshkaSAE


def run_cycles(
    runner: CycleRunner,
    *,
    cycles: int,
    coverage: float,
    seed: int,
    core_size: int | None = None,
    min_cycles: int | None = None,
    initial_sae: MatryoshkaSAE | None = None,
    initial_core: Core | None = None,
    controls: Sequence[str] = (),
    chains: Sequence[str] = (),
    on_cycle: Callable[[CycleReport], None] | None = None,
) -> DistillationResult:
    """Run L train-and-select cycles (Algorithms 1 and 2), and return the cores C_0..C_L and the distilled core.

    Cycle 0 has an empty core, or is `initial_sae`, or is skipped if `initial_core` is C_0. Cycle l >= 1 trains around
    the frozen C_{l-1} on the steps l*steps..(l+1)*steps-1 of the feed, with the seed derive_seed(seed, "cycle", l), and
    C_l is selected from it. In cycle L the controls are trained too, in place of C_{L-1}, with the same seed and
    batches. A chain is a control in place of C_0 which then runs as the core does: it is trained around and selected
    from in each of the cycles 1..L, with their seeds and batches. What is left of it in the end shows what rows that
    attribution did not select can reach by these cycles.

    Results are kept in the runner's store under `cycle_key` and are found there again. So trials that differ only in
    coverage share cycle 0, and a run that is started again continues where it was. With a process group, every rank
    calls this with the same arguments. A collapse ends the run before its controls and chains, and `collapsed_at` and
    `collapse` of the result name it; that of a chain ends the chain alone. After an interrupt there are complete files
    only.

    Args:
        runner: trains, scores and stores single cycles.
        cycles: L, at least 1.
        coverage: tau in (0, 1], the share of the summed score that a core must hold.
        seed: seed of the trial.
        core_size: select so many of the best in place of the coverage; None: by coverage.
        min_cycles: the distilled core holds what was selected in each of the last so many cycles; None: in all.
        initial_sae: takes raw activations; it is scored as cycle 0, not trained.
        initial_core: used as C_0.
        controls: names of `controls.CONTROLS`, for the last cycle.
        chains: names of the same, for all cycles.
        on_cycle: called with the report of each cycle, on every rank; also for cycles found in the store, which have
            `cached` = True.

    Raises:
        ConfigError: the arguments cannot work.
        DataError: the feed or the attribution set holds values that are not finite.
    """
    check_coverage(coverage)
    check_size(core_size)
    controls, chains = tuple(controls), tuple(chains)
    check_controls(controls)
    check_controls(chains, "control_chains")
    _check(runner, cycles, min_cycles, initial_sae, initial_core, controls, chains)
    if initial_core is not None and initial_core.borne_by(seed, since=1):
        raise ConfigError(
            f"seed: {seed} learned rows of initial_core in cycles after cycle 0, and begins those with the directions "
            "that the rows were learned from; give another seed"
        )
    steps = runner.settings.steps
    result = DistillationResult(cycles=cycles, coverage=coverage, seed=seed, min_cycles=min_cycles)
    core, first_of_chain = empty_core(runner.source.d_model), dict[str, Core]()
    if initial_core is not None:
        core = initial_core.as_origin()
        result.cores.append(core)
        first_of_chain = {name: random_core(name, core, control_seed(seed, name)) for name in chains}
        if cycles == 1:
            result.control_cores = {name: random_core(name, core, control_seed(seed, name)) for name in controls}

    def finish(run: CycleRun, cycle: int, arm: str, trained_with: Core, wanted: tuple[str, ...] = ()) -> NextCore:
        done = select_next_core(
            runner,
            run,
            cycle,
            arm,
            trained_with,
            coverage=coverage,
            seed=seed,
            core_size=core_size,
            controls=wanted,
        )
        if on_cycle is not None:
            on_cycle(done.report)
        return done

    def run_one(cycle: int, arm: str, trained_with: Core) -> CycleRun:
        return runner.cycle(cycle, arm, trained_with, derive_seed(seed, "cycle", cycle), cycle * steps)

    for cycle in range(0 if initial_core is None else 1, cycles + 1):
        given = initial_sae if cycle == 0 else None
        run = run_one(cycle, DISTILLED, core) if given is None else runner.given(given)
        of_chains, of_controls = chains if cycle == 0 else (), controls if cycle == cycles - 1 else ()
        done = finish(run, cycle, DISTILLED, core, tuple(dict.fromkeys((*of_chains, *of_controls))))
        core = done.core
        result.reports.append(done.report)
        result.cores.append(core)
        first_of_chain |= {name: control for name, control in done.controls.items() if name in of_chains}
        result.control_cores.update({name: c for name, c in done.controls.items() if name in of_controls})
        result.left_out |= {name: why for name, why in done.left_out.items() if name in of_controls}
        result.left_out |= {chain_arm(name): why for name, why in done.left_out.items() if name in of_chains}
        result.sae = run.trained.sae if run.trained is not None else None
        if done.report.collapsed is not None:
            result.collapsed_at, result.collapse = cycle, done.report.collapsed
            return result
    for name, control in result.control_cores.items():
        result.control_reports[name] = finish(run_one(cycles, name, control), cycles, name, control).report
    for name, control in first_of_chain.items():
        chain, core, arm = result.chains.setdefault(name, Chain([], [control])), control, chain_arm(name)
        for cycle in range(1, cycles + 1):
            done = finish(run_one(cycle, arm, core), cycle, arm, core)
            core = done.core
            chain.reports.append(done.report)
            chain.cores.append(core)
            if done.report.collapsed is not None:
                break
    return result


def _check(
    runner: CycleRunner,
    cycles: int,
    min_cycles: int | None,
    initial_sae: MatryoshkaSAE | None,
    initial_core: Core | None,
    controls: tuple[str, ...],
    chains: tuple[str, ...],
) -> None:
    if cycles < 1:
        raise ConfigError(f"cycles: {cycles!r} must be at least 1")
    if min_cycles is not None and min_cycles < 1:
        raise ConfigError(f"min_cycles: {min_cycles!r} must be at least 1, or None for all")
    if initial_sae is not None and initial_core is not None:
        raise ConfigError("initial_sae, initial_core: both stand for cycle 0; give one")
    if initial_sae is not None:
        check_width("initial_sae", initial_sae.d_model, runner.source)
        pool_groups, groups = runner.settings.pool_groups, len(initial_sae.group_sizes)
        if pool_groups > groups:
            raise ConfigError(f"pool_groups: {pool_groups} is more than initial_sae's {groups} groups")
    if initial_core is not None:
        check_width("initial_core", initial_core.d_model, runner.source)
        if len(initial_core) == 0:
            raise ConfigError("initial_core: is empty; leave it out to train cycle 0")
        for name in controls:
            if cycles == 1 and name in NEEDS_SAE:
                raise ConfigError(f"controls: {name} needs the SAE of initial_core; use gaussian, or cycles > 1")
        for name in chains:
            if name in NEEDS_SAE:
                raise ConfigError(f"control_chains: {name} needs the SAE of initial_core; use gaussian")
