"""The work of a sweep, counted in trainings: all of it, what is left of it, and how long that takes."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dmsae_ray.config import Experiment
from dmsae_ray.plan.plan import Plan, count_trainings, shares_cycle_0
from dmsae_ray.plan.trials import Trial, expand
from dmsae_ray.plan.words import count_text, hours_text, many


@dataclass(frozen=True)
class Work:
    """The trials and trainings of a sweep; the sizes of its model need not be known.

    Attributes:
        trials: All trials of the grid, in the order in which they begin.
        trainings: Trainings of all of them; one that several trials share counts once.
        trainings_of_trial: Trainings of one trial, its cycle 0 included.
        shares_cycle_0: Whether trials that differ only in coverage share a training.
        cycles: Number of the last cycle, L; None for transfers.
        steps: Steps of one training, but for trials of another budget.
        batch_size: Tokens of a step.
    """

    trials: tuple[Trial, ...]
    trainings: int
    trainings_of_trial: int
    shares_cycle_0: bool
    cycles: int | None
    steps: int
    batch_size: int

    @property
    def training_tokens(self) -> int:
        """Tokens of one training of recipe.tokens."""
        return self.steps * self.batch_size

    def tokens_of(self, trial: Trial) -> float:
        """Return the tokens of one training of a trial."""
        return trial.budget * self.training_tokens

    def batch_of(self, trial: Trial) -> int:
        """Return the tokens of a step of a trial."""
        return int(dict(trial.setting.axes).get("recipe.batch_size", self.batch_size))

    def cycle_0(self, trial: Trial) -> tuple[object, ...] | None:
        """Return what a trial shares its cycle 0 by; None if it shares none."""
        return trial.cycle_0 if self.shares_cycle_0 else None

    def counts(self, cycle: int) -> bool:
        """Whether a cycle is a training: cycle 0 is none where an SAE is given for it."""
        return cycle > 0 or self.cycles is None or self.shares_cycle_0


def work_of(experiment: Experiment) -> Work:
    """Return the work of an experiment."""
    trials = tuple(expand(experiment))
    trainings, unshared, _ = count_trainings(experiment, trials)
    return Work(
        trials=trials,
        trainings=trainings,
        trainings_of_trial=unshared // len(trials),
        shares_cycle_0=shares_cycle_0(experiment),
        cycles=experiment.distill.cycles if experiment.transfer is None else None,
        steps=experiment.recipe.steps,
        batch_size=experiment.recipe.batch_size,
    )


@dataclass(frozen=True)
class Done:
    """How far one trial is.

    Attributes:
        trainings: Trainings that it has, its cycle 0 included.
        cycle_0: Whether it has its cycle 0.
        ended: Whether it ended, well or not: it has no training left.
    """

    trainings: int = 0
    cycle_0: bool = False
    ended: bool = False


def trainings_left(work: Work, done: Mapping[str, Done]) -> int:
    """Return how many trainings are still to come; one that several trials share counts once.

    Args:
        work: The work of the sweep.
        done: How far its trials are, by name; those that are left out have not begun.
    """
    return sum(count for _, count in _left(work, done))


def _left(work: Work, done: Mapping[str, Done]) -> Iterator[tuple[Trial, int]]:
    """Yield the trials that have not ended, with the trainings that each has still to do."""
    there = {work.cycle_0(trial) for trial in work.trials if done.get(trial.trial_id, Done()).cycle_0}
    for trial in work.trials:
        own, shared = done.get(trial.trial_id, Done()), work.cycle_0(trial)
        if own.ended:
            continue
        count = work.trainings_of_trial - own.trainings
        if shared is not None and not own.cycle_0:
            count -= shared in there  # it is found, or counted for another trial
            there.add(shared)
        yield trial, count


def left_line(plan: Plan, work: Work, done: Mapping[str, Done], harvested: bool) -> str:
    """Return in one line what a sweep that goes on has still to do, and what that costs.

    Args:
        plan: The plan of the whole sweep.
        work: Its work.
        done: How far its trials are, by name.
        harvested: Whether its store is complete.
    """
    trials = sum(not done.get(trial.trial_id, Done()).ended for trial in work.trials)
    trainings = trainings_left(work, done)
    left = sum(count * trial.budget for trial, count in _left(work, done))
    flops = plan.flops
    spent = (flops.training + flops.streaming) * left / plan.lengths + flops.evaluation * trainings / plan.trainings
    spent += 0.0 if harvested else flops.harvest
    hours = spent / plan.rate.flops_per_second / 3600
    return (
        f"{trials} of {many(len(work.trials), 'trial')}, {trainings} of {many(plan.trainings, 'SAE training')}, "
        f"{count_text(left * work.training_tokens)} training tokens, {spent:.2g} FLOP, "
        f"about {hours_text(hours)} of one {plan.rate.unit}"
    )


@dataclass(frozen=True)
class RunningTrial:
    """When a running trial ends, as far as one can see.

    Attributes:
        trial: The trial.
        seconds: Seconds to its end.
        cycle_0: Seconds until its cycle 0 is there; 0 if it is.
    """

    trial: Trial
    seconds: float
    cycle_0: float


@dataclass(frozen=True)
class Pace:
    """How fast a sweep is, as seen so far.

    Attributes:
        training: Seconds from the begin of one training of recipe.tokens to that of the next.
        start: Seconds from the begin of a trial to that of its first training.
        places: How many trials run at once.
    """

    training: float
    start: float
    places: int


def seconds_left(work: Work, done: Mapping[str, Done], running: Sequence[RunningTrial], pace: Pace) -> float:
    """Return the seconds until the last trial ends, if the others begin as `queue.TrialQueue` lets them.

    Args:
        work: The work of the sweep.
        done: How far its trials are, by name.
        running: The trials that run.
        pace: How fast it is.
    """
    run = {item.trial.trial_id for item in running}
    there: dict[object, float] = {}
    for trial in work.trials:
        if done.get(trial.trial_id, Done()).cycle_0:
            there[work.cycle_0(trial)] = 0.0
    for item in running:
        shared = work.cycle_0(item.trial)
        there[shared] = min(item.cycle_0, there.get(shared, item.cycle_0))
    waiting = [t for t in work.trials if t.trial_id not in run and not done.get(t.trial_id, Done()).ended]
    free = [item.seconds for item in running] + [0.0] * max(0, pace.places - len(running))
    heapq.heapify(free)
    last = max((item.seconds for item in running), default=0.0)
    while waiting:
        now = heapq.heappop(free)
        index = next((i for i, trial in enumerate(waiting) if _need_not_wait(work.cycle_0(trial), there, now)), None)
        if index is None:
            later = min(there[work.cycle_0(trial)] for trial in waiting)
            heapq.heappush(free, later)
            continue
        trial = waiting.pop(index)
        own, shared = done.get(trial.trial_id, Done()), work.cycle_0(trial)
        found = shared is not None and not own.cycle_0 and shared in there
        end = now + pace.start + (work.trainings_of_trial - own.trainings - found) * trial.budget * pace.training
        if shared is not None:
            there.setdefault(shared, now + pace.start + trial.budget * pace.training)
        heapq.heappush(free, end)
        last = max(last, end)
    return last


def _need_not_wait(shared: object, there: Mapping[object, float], now: float) -> bool:
    """Whether a trial may begin: nobody trains its cycle 0 just then."""
    return shared is None or there.get(shared, now) <= now
