"""Algorithm 3: train fresh SAEs around a fixed core, to see what the core is worth to them."""

from collections.abc import Callable
from dataclasses import dataclass

from dmsae_ray.distill.core import Core
from dmsae_ray.distill.cycle_runner import CycleRunner
from dmsae_ray.distill.cycle_settings import check_width
from dmsae_ray.distill.next_core import select_next_core
from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.selection import check_coverage, check_size
from dmsae_ray.distill.trained_cycle import TrainedCycle
from dmsae_ray.errors import ConfigError


@dataclass(frozen=True)
class TransferResult:
    """The result of `transfer`.

    Attributes:
        report: the figures of the trained cycle.
        selected: the core that would be selected from its SAE.
        trained: the SAE and its scores on the first rank; None on the others.
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
    core_size: int | None = None,
    arm: str = "transfer",
    start_step: int = 0,
    on_cycle: Callable[[CycleReport], None] | None = None,
) -> TransferResult:
    """Train one fresh SAE around a fixed core (Algorithm 3); the runner's settings say whether it is dense or sparse.

    Carryover and core_share, from what is selected in the SAE, say how much of the core stays in use. With the seed of
    the trial that bore the core, the fresh rows would begin as those of its cycle 0, and the rows that the core was
    learned from would be among them: such a seed is refused.

    Args:
        runner: trains, scores and stores the cycle.
        core: the core; an empty one gives the baseline Matryoshka SAE. That is exactly the SAE of cycle 0 of a trial
            with the same settings and seed, and is found in the store if that trial ran.
        seed: seed of the trial.
        coverage: tau of the selection.
        core_size: select so many of the best in place of the coverage.
        arm: name of the arm in the report: 'transfer', or the name of the control if `core` is one.
        start_step: first step of the feed.
        on_cycle: called with the report, on every rank.

    Raises:
        ConfigError: the coverage or the width of the core cannot work, or the seed bore the core.
        DataError: the feed or the attribution set holds values that are not finite.
    """
    check_coverage(coverage)
    check_size(core_size)
    check_width("core", core.d_model, runner.source)
    if core.borne_by(seed):
        raise ConfigError(
            f"seed: {seed} bore the core, whose own directions a fresh SAE of this seed begins with; give another seed"
        )
    origin, cycle = core.as_origin(), 1 if len(core) else 0
    run = runner.cycle(cycle, arm, origin, derive_seed(seed, "cycle", 0), start_step)
    done = select_next_core(runner, run, cycle, arm, origin, coverage=coverage, seed=seed, core_size=core_size)
    if on_cycle is not None:
        on_cycle(done.report)
    return TransferResult(done.report, done.core, run.trained)
