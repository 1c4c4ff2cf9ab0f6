"""The trials of a grid in the order in which a searcher of Ray Tune asks for them."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical

from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.plan import Trial
from dmsae_ray.results import CYCLE_NUMBERS, Steered, failure_in, known_in

_REPEATS = 100
Point = tuple[tuple[str, Any], ...]


def point_of(trial: Trial) -> dict[str, Any]:
    """Return what a searcher chooses a trial by: k, coverage (or core_size) and the further axes, without the seed."""
    params = trial.setting.params()
    return {name: value for name, value in params.items() if name not in ("core_sparsity", "arm")}


class ChosenTrials:
    """Trials that a searcher asks for, by their points.

    A point is run with the first seed; when the searcher asks for it again, with the next one; when there is none left,
    the searcher is told the mean of what is known of it.

    Args:
        searcher: The searcher; unless it has a space of its own, the axes of the grid are its space.
        trials: All trials of the grid.
        known: What trials found that need not run, by name: plain numbers.
        first: Trials that run in any case.
        steered: The record of the sweep: how many others may begin, and which did.
        save: Called when the record has changed.

    Raises:
        ConfigError: The searcher does not take the space, or asks for what is not in it; also of `next`.
    """

    def __init__(
        self,
        searcher: Searcher,
        trials: Sequence[Trial],
        known: Mapping[str, Mapping[str, float]],
        first: Sequence[Trial],
        steered: Steered,
        save: Callable[[], None],
    ) -> None:
        self._searcher, self._steered, self._save = searcher, steered, save
        self.first = list(first)
        self._points: dict[Point, list[Trial]] = {}
        space: dict[str, list[Any]] = {}
        for trial in trials:
            point = point_of(trial)
            self._points.setdefault(tuple(sorted(point.items())), []).append(trial)
            for name, value in point.items():
                values = space.setdefault(name, [])
                values += [value] if value not in values else []
        self._space, self._found = space, {name: dict(numbers) for name, numbers in known.items()}
        self._asks: dict[str, str] = {}
        self._running = list(first)
        self._waiting: list[tuple[str, list[Trial]]] = []
        self._asked, self._prefix = 0, uuid.uuid4().hex  # the searcher may remember the asks of an earlier call
        choices = {name: Categorical(values) for name, values in space.items()}
        self._ask(lambda: searcher.set_search_properties(None, None, choices))

    @property
    def more(self) -> bool:
        """Whether another trial may begin."""
        old = {*self._found, *self._asks, *(trial.trial_id for trial in self._running)}
        return self._steered.room > 0 and any(t.trial_id not in old for trials in self._points.values() for t in trials)

    def next(self) -> Trial | None:
        """Return a trial that the searcher asks for now; None if it waits for results, or asks for nothing new."""
        for _ in range(_REPEATS):
            if self._waiting or not self.more:
                return None
            ask = f"{self._prefix}{self._asked:08d}"
            suggested: Any = self._ask(partial(self._searcher.suggest, ask))
            if suggested is None and self._running:
                return None
            if suggested is None:
                break  # nothing will happen that it could wait for
            if suggested == Searcher.FINISHED:
                break
            self._asked += 1
            trial = self._trial(suggested, ask)
            if trial is not None:
                self._running.append(trial)
                self._steered.asked.append(trial.trial_id)
                self._steered.room -= 1
                self._save()
                return trial
        self._steered.room = 0  # there is no more, or it asks for the same for ever
        self._save()
        return None

    def end(self) -> None:
        """Tell the searcher that no more is heard of what runs: one that counts its trials would wait for them."""
        for trial in self._running:
            if trial.trial_id in self._asks:
                self._complete(self._asks[trial.trial_id], {})
        for ask, _ in self._waiting:
            self._complete(ask, {})
        self._running, self._waiting = [], []

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise ConfigError(f"searcher {type(self._searcher).__name__}: {one_line(error)}") from error

    def reported(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Tell the searcher what a running trial reports, if its metric is known by now."""
        ask, metric = self._asks.get(trial.trial_id), self._searcher.metric
        if ask is not None and isinstance(metric, str) and metric in result:
            self._searcher.on_trial_result(ask, dict(result))

    def ended(self, trial: Trial, result: Mapping[str, Any] | None, error: bool) -> None:
        """Tell the searcher what a trial found that has ended, well or not."""
        self._running.remove(trial)
        if result is not None and not error and failure_in(result) is None:
            self._found[trial.trial_id] = known_in(result)
        if trial.trial_id in self._asks:
            self._complete(self._asks[trial.trial_id], self._found.get(trial.trial_id, {}))
        for ask, trials in [waiting for waiting in self._waiting if trial in waiting[1]]:
            self._waiting.remove((ask, trials))
            self._repeat(ask, trials)

    def _trial(self, suggested: Mapping[str, Any], ask: str) -> Trial | None:
        """Return the trial to begin for a suggestion; None if there is none: the searcher is told what is known."""
        names = [name for name in self._space if name in suggested]
        trials = self._points.get(tuple(sorted((name, suggested[name]) for name in names)))
        if trials is None:
            allowed = "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in self._space.items())
            name = type(self._searcher).__name__
            raise ConfigError(f"searcher {name}: it asks for {dict(suggested)}; allowed: {allowed}")
        for trial in trials:
            if trial.trial_id in self._asks:
                continue
            self._asks[trial.trial_id] = ask
            if trial.trial_id in self._found:
                self._complete(ask, self._found[trial.trial_id])
                return None
            return None if trial in self._running else trial
        self._repeat(ask, trials)
        return None

    def _repeat(self, ask: str, trials: list[Trial]) -> None:
        """Answer for a point whose seeds are used up: with the mean of what was found, or later, or not at all."""
        found = [self._found[trial.trial_id] for trial in trials if trial.trial_id in self._found]
        if found:
            each = {name: [numbers[name] for numbers in found if name in numbers] for name in CYCLE_NUMBERS}
            self._complete(ask, {name: fmean(values) for name, values in each.items() if values})
        elif any(trial in self._running for trial in trials):
            self._waiting.append((ask, trials))
        else:
            self._complete(ask, {})

    def _complete(self, ask: str, numbers: Mapping[str, float]) -> None:
        """Answer an ask; without the searcher's metric, as of a trial that failed."""
        metric = self._searcher.metric
        wanted = {metric} if isinstance(metric, str) else set(metric or ())
        self._searcher.on_trial_complete(ask, {"training_iteration": 1, **numbers}, not wanted <= numbers.keys())
