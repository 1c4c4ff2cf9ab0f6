"""What of Ray Tune decides beside the grid: a searcher chooses which trials begin, a scheduler stops some early."""

from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import (
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
    ResourceChangingScheduler,
    TrialScheduler,
)
from ray.tune.search import Searcher

from dmsae_ray.config import Experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan import Trial, many, work_of
from dmsae_ray.results import CYCLE_NUMBERS, NUMBERS, Steered, load_results
from dmsae_ray.sweep.chosen_trials import ChosenTrials
from dmsae_ray.sweep.prepared import PreparedSweep, sweep_state
from dmsae_ray.sweep.trial_search import TrialSearch

_PAUSE = (HyperBandScheduler, PopulationBasedTraining, PopulationBasedTrainingReplay, ResourceChangingScheduler)
_OF_TUNE = ("training_iteration", "time_total_s", "time_since_restore", "iterations_since_restore")


@dataclass(frozen=True)
class Steering:
    """Who chooses and stops trials; without both, all trials of the grid run to their end.

    Attributes:
        scheduler: Stops trials by what they report, see `TrialReport.numbers`.
        searcher: Chooses trials by what earlier ones found.
        num_samples: How many trials the searcher may have in all, those included that are there; None: the whole grid.
    """

    scheduler: TrialScheduler | None = None
    searcher: Searcher | None = None
    num_samples: int | None = None

    @property
    def searcher_name(self) -> str | None:
        """What the searcher is called; None without one."""
        return None if self.searcher is None else type(self.searcher).__name__

    def room(self, sweep: PreparedSweep, steered: Steered) -> int:
        """Return how many trials the searcher may still ask for."""
        trials = [trial.trial_id for trial in sweep.plan.trials]
        most = min(len(trials), self.num_samples or len(trials))
        return max(0, most - sum(name in steered.asked for name in trials)) if self.searcher is not None else 0


NOBODY = Steering()


def check_steering(steering: Steering, experiment: Experiment) -> None:
    """Check that the scheduler and the searcher fit the experiment.

    Raises:
        ConfigError: One of them cannot work here; one line says which argument, and what is allowed.
    """
    if steering.scheduler is not None:
        _check_scheduler(steering.scheduler, experiment)
    if steering.searcher is not None:
        _check_searcher(steering.searcher, experiment)
    elif steering.num_samples is not None:
        raise ConfigError(f"num_samples {steering.num_samples}: it is of a searcher, and there is none")
    if steering.num_samples is not None and steering.num_samples < 1:
        raise ConfigError(f"num_samples {steering.num_samples}: allowed: 1 or more")


def _check_scheduler(scheduler: object, experiment: Experiment) -> None:
    name = type(scheduler).__name__
    if not isinstance(scheduler, TrialScheduler):
        raise ConfigError(f"scheduler {name}: allowed: a scheduler of ray.tune.schedulers")
    if isinstance(scheduler, _PAUSE) or getattr(scheduler, "_hard_stop", True) is False:
        raise ConfigError(
            f"scheduler {name}: it pauses or changes trials; allowed: one that only stops them, such as ASHAScheduler"
        )
    _check_metric("scheduler", name, scheduler, NUMBERS)
    axis, most = getattr(scheduler, "_time_attr", None), getattr(scheduler, "_max_t", None)
    if axis is not None and axis not in (allowed := ("tokens", "cycle", *_OF_TUNE)):
        raise ConfigError(f"scheduler {name}: time_attr {axis!r}: allowed: {', '.join(allowed)}")
    work = work_of(experiment)
    cycles, tokens = work.cycles or 0, max(work.tokens_of(trial) for trial in work.trials)
    last = {"tokens": int((cycles + 1) * tokens), "cycle": cycles}.get(str(axis))
    if most is not None and last is not None and most <= last and getattr(scheduler, "_stop_last_trials", True):
        raise ConfigError(
            f"scheduler {name}: max_t {most:,}: a trial ends at {axis} {last:,} and would be stopped there, before its "
            f"results are written; allowed: more than {last:,}"
        )


def _check_searcher(searcher: object, experiment: Experiment) -> None:
    name = type(searcher).__name__
    if not isinstance(searcher, Searcher):
        raise ConfigError(f"searcher {name}: allowed: a searcher of ray.tune.search, such as OptunaSearch")
    if experiment.transfer is not None:
        raise ConfigError(f"searcher {name}: transfers compare all their arms; allowed: experiments of cycles")
    if len(parts := experiment.parts()) > 1:
        raise ConfigError(
            f"searcher {name}: sweep.axes makes {many(len(parts), 'store')} of activations, which run one after the "
            "other; allowed: axes that read one store"
        )
    inner: Any = searcher
    while getattr(inner, "metric", None) is None and isinstance(getattr(inner, "searcher", None), Searcher):
        inner = inner.searcher  # of a ConcurrencyLimiter or a Repeater
    _check_metric("searcher", name, inner, CYCLE_NUMBERS)


def _check_metric(field: str, name: str, one: Any, allowed: tuple[str, ...]) -> None:
    metrics, modes = getattr(one, "metric", None), getattr(one, "_mode", None)
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        # A person's own searcher may need none; those of Ray Tune do.
        needed = hasattr(one, "_mode") and (field == "scheduler" or type(one).__module__.startswith("ray.tune."))
        if metric not in allowed and (metric is not None or needed):
            raise ConfigError(f"{field} {name}: metric {metric!r}: allowed: {', '.join(allowed)}")
    if metrics is not None and modes is None and hasattr(one, "_mode"):
        raise ConfigError(f"{field} {name}: mode None: allowed: 'min' or 'max'")


def steered_search(sweep: PreparedSweep, steering: Steering, steered: Steered, places: int) -> TrialSearch:
    """Return the search of the trials that are to run.

    Args:
        sweep: The sweep.
        steering: Who chooses trials.
        steered: The record of the sweep, in which what is chosen is noted.
        places: How many trials may run at once.
    """
    plan, state = sweep.plan, sweep_state(sweep)
    by_name = {trial.trial_id: trial for trial in plan.trials}
    todo = [by_name[name] for name in state.unfinished]
    room = steering.room(sweep, steered)
    if steering.searcher is None or room == 0:
        return TrialSearch(todo, plan.shares_cycle_0, places)

    def noted(trial: Trial) -> None:
        steered.asked.append(trial.trial_id)
        steered.write(sweep.folders)

    known = {result.trial_id: result.numbers for result in load_results(sweep.folders.sweep)}
    known |= {name: one.numbers for name, one in steered.stopped.items()}
    chosen = ChosenTrials(steering.searcher, plan.trials, known, todo, room, noted)
    others = [by_name[name] for name in state.stopped if name not in steered.asked]
    return TrialSearch([*todo, *others], plan.shares_cycle_0, places, chosen)


class OnlyStops(FIFOScheduler):
    """A scheduler whose trials go on where it would pause them: no other trial waits for their places.

    Args:
        scheduler: The scheduler that decides.
    """

    def __init__(self, scheduler: TrialScheduler) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner = scheduler

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Tell the scheduler of a new trial."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the scheduler of a trial that failed."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial goes on."""
        found = self._inner.on_trial_result(tune_controller, trial, result)
        return found if found == TrialScheduler.STOP else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tell the scheduler of a trial that ended."""
        self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Tell the scheduler of a trial that was taken away before it ran."""
        self._inner.on_trial_remove(tune_controller, trial)
