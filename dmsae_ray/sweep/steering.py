"""What of Ray Tune decides beside the grid: a searcher chooses which trials begin, a scheduler stops some early."""

import copy
import math
from collections.abc import Mapping
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
from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.plan import many, work_of
from dmsae_ray.results import CYCLE_NUMBERS, NUMBERS, Steered, failure_in, known_in, load_results
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

    def samples(self, trials: int) -> int:
        """Return how many of the grid's trials the searcher may have in all."""
        return trials if self.num_samples is None else min(trials, self.num_samples)


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
    count = steering.num_samples
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise ConfigError(f"num_samples {count!r}: allowed: a whole number, 1 or more")


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
    last = {"tokens": max(_last_tokens(experiment).values()), "cycle": _last_cycle(experiment)}.get(str(axis))
    if most is not None and last is not None and most < last and getattr(scheduler, "_stop_last_trials", True):
        raise ConfigError(
            f"scheduler {name}: max_t {most:,}: trials end at {axis} {last:,} and would all be stopped before; "
            f"allowed: {last:,} or more"
        )


def _last_cycle(experiment: Experiment) -> int:
    """Return the number of the last cycle of a trial; a transfer has one training, whatever its number."""
    return work_of(experiment).cycles or 0


def _last_tokens(experiment: Experiment) -> dict[str, int]:
    """Return what 'tokens' is at the end of each trial, by name."""
    work = work_of(experiment)
    return {one.trial_id: round((_last_cycle(experiment) + 1) * work.tokens_of(one)) for one in work.trials}


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
    left = [by_name[name] for name in state.unfinished]
    if steering.searcher is None:
        return TrialSearch(left, plan.shares_cycle_0, places)
    known = {name: one.numbers for name, one in steered.stopped.items()}
    known |= {result.trial_id: result.numbers for result in load_results(sweep.folders.sweep)}
    begun = [trial for trial in left if trial.trial_id in steered.asked]
    chosen = ChosenTrials(steering.searcher, plan.trials, known, begun, steered, lambda: steered.write(sweep.folders))
    return TrialSearch(left, plan.shares_cycle_0, places, chosen)


class OnlyStops(FIFOScheduler):
    """A scheduler that stops trials, and does nothing else.

    Where it would pause a trial, this goes on: no other waits for its places. One that has come to its end is not
    stopped: what is left is to write its result. A scheduler is told what is known of a trial that ends, since the last
    report has no numbers of its own, and of one that failed that it failed.

    Args:
        scheduler: The scheduler that decides.
        last_cycle: Number of the last cycle of a trial.
        last_tokens: What 'tokens' is at the end of each trial, by name.
    """

    def __init__(self, scheduler: TrialScheduler, last_cycle: int, last_tokens: Mapping[str, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner, self._last_cycle, self._last_tokens = scheduler, last_cycle, last_tokens

    @classmethod
    def of(cls, scheduler: TrialScheduler, experiment: Experiment) -> "OnlyStops":
        """Return a copy of a scheduler for a sweep: what it learns of trials stays there.

        Raises:
            ConfigError: It cannot be copied.
        """
        try:
            inner = copy.deepcopy(scheduler)
        except Exception as error:
            raise ConfigError(f"scheduler {type(scheduler).__name__}: no copy can be made: {one_line(error)}") from None
        return cls(inner, _last_cycle(experiment), _last_tokens(experiment))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Tell the scheduler of a new trial."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the scheduler of a trial that failed."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial goes on."""
        found = self._inner.on_trial_result(tune_controller, trial, result)
        known, last_tokens = known_in(result), self._last_tokens.get(trial.config["trial_id"], math.inf)
        ends = known.get("cycle", -1) >= self._last_cycle or known.get("tokens", 0) >= last_tokens
        return TrialScheduler.STOP if found == TrialScheduler.STOP and not ends else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tell the scheduler of a trial that ended."""
        if failure_in(result) is not None:
            self._inner.on_trial_error(tune_controller, trial)
            return
        whole = {**result, **known_in(result)}
        if {self._inner.metric, getattr(self._inner, "_time_attr", None)} - {None} <= whole.keys():
            self._inner.on_trial_complete(tune_controller, trial, whole)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Tell the scheduler of a trial that was taken away before it ran."""
        self._inner.on_trial_remove(tune_controller, trial)
