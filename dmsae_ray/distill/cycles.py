"""Algorithm 1: train, score, select, freeze, start afresh; L times. Nothing here knows of Ray."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from dmsae_ray.distill.controls import NEEDS_SAE, check_controls, gaussian_core
from dmsae_ray.distill.core import Core, empty_core
from dmsae_ray.distill.cycle_runner import CycleCheckpoint, Evaluate, Found, Runner, Scorer
from dmsae_ray.distill.cycle_settings import CycleSettings, DataSource, check_width
from dmsae_ray.distill.cycle_store import CycleStore
from dmsae_ray.distill.history import History
from dmsae_ray.distill.next_core import Conclusion, conclude, control_seed
from dmsae_ray.distill.ranks import Ranks
from dmsae_ray.distill.reports import DISTILLED, CycleRecord, WindowRecord
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.selection import check_coverage
from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import MatryoshkaSAE


def run_cycles(
    settings: CycleSettings,
    source: DataSource,
    *,
    cycles: int,
    coverage: float,
    seed: int,
    min_cycles: int | None = None,
    initial_sae: MatryoshkaSAE | None = None,
    initial_core: Core | None = None,
    controls: Sequence[str] = (),
    store: CycleStore | None = None,
    evaluate: Evaluate | None = None,
    scorer: Scorer | None = None,
    checkpoint_every_steps: int | None = None,
    save_checkpoint: Callable[[CycleCheckpoint], None] | None = None,
    resume: CycleCheckpoint | None = None,
    on_window: Callable[[WindowRecord], None] | None = None,
    window_steps: int = 100,
    on_cycle: Callable[[CycleRecord], None] | None = None,
    process_group: dist.ProcessGroup | None = None,
    device: str | torch.device = "cpu",
) -> History:
    """The cores C_0..C_L of `cycles` = L train-and-select cycles, and the distilled core (Algorithms 1 and 2).

    Cycle 0 has an empty core, or is `initial_sae` (takes raw activations; scored, not trained), or is skipped when
    `initial_core` stands for C_0. Cycle l >= 1 trains around the frozen C_{l-1} on the feed's steps
    l*steps..(l+1)*steps-1, from seed derive_seed(seed, "cycle", l), and C_l is selected from it. In cycle L the
    `controls` (controls.CONTROLS) are trained too, in place of C_{L-1}, with the same seed and batches.

    Results go to and come from `store` under settings.cycle_key, so trials that differ only in coverage share cycle 0
    and a run that is started again goes on where it was. `resume` (the last CycleCheckpoint) goes on within a cycle,
    bit for bit; cycles before it come from the store or, without one, are trained again to the same result.

    With a `process_group` every rank calls this with the same arguments. The first loads, scores, evaluates and stores;
    `on_window`, `on_cycle` and `save_checkpoint` are called on every rank at the same points, so that a barrier inside
    them is possible and only one need write. Records of cycles found in the store are told again, `cached` = True.

    A collapse ends the run and is reported by History.collapsed_at and .collapse. ConfigError for arguments that cannot
    work, DataError for a feed or attribution set with values that are not finite. An interrupt leaves whole files only.
    """
    check_coverage(coverage)
    controls = tuple(controls)
    check_controls(controls)
    _check(settings, source, cycles, min_cycles, initial_sae, initial_core, controls)
    device = torch.device(device)
    runner = Runner(
        settings=settings,
        source=source,
        ranks=Ranks(process_group, device),
        device=device,
        process_group=process_group,
        store=store,
        evaluate=evaluate,
        scorer=scorer,
        window_steps=window_steps,
        on_window=on_window,
        checkpoint_every_steps=checkpoint_every_steps,
        save_checkpoint=save_checkpoint,
        resume=resume,
    )
    history = History(cycles=cycles, coverage=coverage, seed=seed, min_cycles=min_cycles)
    core = empty_core(source.d_model)
    if initial_core is not None:
        core = initial_core.as_origin()
        history.cores.append(core)
        if cycles == 1:
            history.control_cores = {name: gaussian_core(core, control_seed(seed, name)) for name in controls}

    def finish(found: Found, cycle: int, arm: str, trained_with: Core) -> Conclusion:
        wanted = controls if cycle == cycles - 1 and arm == DISTILLED else ()
        done = conclude(runner, found, cycle, arm, trained_with, coverage=coverage, seed=seed, controls=wanted)
        if on_cycle is not None:
            on_cycle(done.record)
        return done

    def cycle_seed(cycle: int) -> int:
        return derive_seed(seed, "cycle", cycle)

    for cycle in range(0 if initial_core is None else 1, cycles + 1):
        if cycle == 0 and initial_sae is not None:
            found = runner.given(initial_sae)
        else:
            found = runner.cycle(cycle, DISTILLED, core, cycle_seed(cycle), cycle * settings.steps)
        done = finish(found, cycle, DISTILLED, core)
        core = done.core
        history.records.append(done.record)
        history.cores.append(core)
        history.control_cores.update(done.controls)
        history.sae = found.outcome.sae if found.outcome is not None else None
        if done.record.collapsed is not None:
            history.collapsed_at, history.collapse = cycle, done.record.collapsed
            return history
    for name, control in history.control_cores.items():
        found = runner.cycle(cycles, name, control, cycle_seed(cycles), cycles * settings.steps)
        history.control_records[name] = finish(found, cycles, name, control).record
    return history


def _check(
    settings: CycleSettings,
    source: DataSource,
    cycles: int,
    min_cycles: int | None,
    initial_sae: MatryoshkaSAE | None,
    initial_core: Core | None,
    controls: tuple[str, ...],
) -> None:
    if cycles < 1:
        raise ConfigError(f"cycles: {cycles!r} must be at least 1")
    if min_cycles is not None and min_cycles < 1:
        raise ConfigError(f"min_cycles: {min_cycles!r} must be at least 1, or None for all")
    if initial_sae is not None and initial_core is not None:
        raise ConfigError("initial_sae, initial_core: both stand for cycle 0; give one")
    if initial_sae is not None:
        check_width("initial_sae", initial_sae.d_model, source)
        if settings.pool_groups > len(initial_sae.group_sizes):
            groups = len(initial_sae.group_sizes)
            raise ConfigError(f"pool_groups: {settings.pool_groups} is more than initial_sae's {groups} groups")
    if initial_core is not None:
        check_width("initial_core", initial_core.d_model, source)
        if len(initial_core) == 0:
            raise ConfigError("initial_core: is empty; leave it out to train cycle 0")
        for name in controls:
            if cycles == 1 and name in NEEDS_SAE:
                raise ConfigError(f"controls: {name} needs the SAE of initial_core; use gaussian, or cycles > 1")
