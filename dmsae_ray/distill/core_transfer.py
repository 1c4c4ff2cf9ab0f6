"""Algorithm 3: what a core is worth to fresh SAEs."""

from collections.abc import Callable
from dataclasses import dataclass

from dmsae_ray.distill.core import Core
from dmsae_ray.distill.cycle_runner import CycleRunner
from dmsae_ray.distill.cycle_settings import check_width
from dmsae_ray.distill.next_core import select_next_core
from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.selection import check_coverage
from dmsae_ray.distill.trained_cycle import TrainedCycle


@dataclass(frozen=True)
class TransferResult:
    """The result of `transfer`.

    Attributes:
        report: its numbers.
        selected: the core that would be selected from it.
        trained: the SAE and its scores, on the first rank; None on others.
    """

    report: CycleReport
    selected: Core
    trained: TrainedCycle | None


def transfer(
    runner: CycleRunner,
    core: Core,
    *,
    seed: int,
    coverage: float = 0.9,
    arm: str = "transfer",
    start_step: int = 0,
    on_cycle: Callable[[CycleReport], None] | None = None,
) -> TransferResult:
    """Train one fresh SAE around a fixed core (Algorithm 3), dense or sparse by the runner's settings.

    What is selected from the SAE says how much of the core stays in use: carryover, core_share. With the seed that bore
    the core, the fresh rows begin as cycle 0's did, the core's own origins among them: use others to compare arms.

    Args:
        runner: trains, scores and stores.
        core: an empty one gives the baseline Matryoshka SAE. That is the very SAE of cycle 0 of a trial with the same
            settings and seed, and is found in the store if that trial ran.
        seed: of the trial.
        coverage: tau of the selection.
        arm: name of the report: 'transfer', or the control that `core` is.
        start_step: the feed's first step.
        on_cycle: told of the report, on every rank.

    Raises:
        ConfigError: coverage or the core's width cannot work.
        DataError: a feed or an attribution set with values that are not finite.
    """
    check_coverage(coverage)
    check_width("core", core.d_model, runner.source)
    origin, cycle = core.as_origin(), 1 if len(core) else 0
    run = runner.cycle(cycle, arm, origin, derive_seed(seed, "cycle", 0), start_step)
    done = select_next_core(runner, run, cycle, arm, origin, coverage=coverage, seed=seed)
    if on_cycle is not None:
        on_cycle(done.report)
    return TransferResult(done.report, done.core, run.trained)
