"""Algorithm 3: what a core is worth to fresh SAEs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from dmsae_ray.distill.core import Core
from dmsae_ray.distill.cycle_runner import CycleCheckpoint, Evaluate, Runner, Scorer
from dmsae_ray.distill.cycle_settings import CycleSettings, DataSource, check_width
from dmsae_ray.distill.cycle_store import CycleStore
from dmsae_ray.distill.next_core import conclude
from dmsae_ray.distill.outcome import CycleOutcome
from dmsae_ray.distill.ranks import Ranks
from dmsae_ray.distill.reports import CycleRecord, WindowRecord
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.selection import check_coverage


@dataclass(frozen=True)
class Transfer:
    """The result of `transfer`: its record, the core that would be selected from it, and (first rank) its outcome."""

    record: CycleRecord
    selected: Core
    outcome: CycleOutcome | None


def transfer(
    settings: CycleSettings,
    source: DataSource,
    core: Core,
    *,
    seed: int,
    coverage: float = 0.9,
    arm: str = "transfer",
    start_step: int = 0,
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
) -> Transfer:
    """Algorithm 3: one fresh SAE around a fixed core (dense or sparse by settings.core_sparsity), as one CycleRecord.

    An empty core gives the baseline Matryoshka SAE; it is the very SAE of cycle 0 of a trial with the same settings and
    seed, and is found in the store if that trial ran. `arm` names the record ("transfer", or the control that `core`
    is). With the seed that bore the core, the fresh rows begin as cycle 0's did, the core's own origins among them: use
    others to compare arms. What is selected from the SAE at `coverage` says how much of the core stays in use:
    carryover, core_share. Ranks, store, checkpoints and callbacks are those of run_cycles.
    """
    check_coverage(coverage)
    check_width("core", core.d_model, source)
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
    origin, cycle = core.as_origin(), 1 if len(core) else 0
    found = runner.cycle(cycle, arm, origin, derive_seed(seed, "cycle", 0), start_step)
    done = conclude(runner, found, cycle, arm, origin, coverage=coverage, seed=seed)
    if on_cycle is not None:
        on_cycle(done.record)
    return Transfer(done.record, done.core, found.outcome)
