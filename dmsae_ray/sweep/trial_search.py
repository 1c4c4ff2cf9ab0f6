"""The trials of a sweep, as a search algorithm of Ray Tune: which one begins next, and when."""

from typing import Any

from ray.tune.search import Searcher

from dmsae_ray.distill import DISTILLED
from dmsae_ray.plan import Trial, TrialQueue
from dmsae_ray.results import TrialReport
from dmsae_ray.sweep.chosen_trials import ChosenTrials


class TrialSearch(Searcher):
    """Give Tune the trials of a queue while places are free; a trial that would have to wait is not begun.

    It runs in the controller. A trial whose driver is lost keeps its place: Tune starts the driver again.

    Args:
        trials: The trials to run, in their order.
        shares_cycle_0: See `plan.TrialQueue`.
        places: How many trials may run at once.
        chosen: Which of them a searcher asks for; None: all.
    """

    def __init__(
        self, trials: list[Trial], shares_cycle_0: bool, places: int, chosen: ChosenTrials | None = None
    ) -> None:
        super().__init__()
        self.trials, self._chosen = trials, chosen
        self._queue = TrialQueue(trials if chosen is None else chosen.first, shares_cycle_0)
        self._begun: dict[str, Trial] = {}
        self._ended: set[str] = set()
        self._places = places
        self._closed = False

    def widen(self, places: int) -> None:
        """Allow `places` from now on. Any thread may call it."""
        self._places = places

    def close(self) -> None:
        """Begin no more trials. Any thread may call it."""
        self._closed = True

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the trial that begins now, None if none may, or that there are no more."""
        if self._closed or not (self._queue.waiting or (self._chosen and self._chosen.more)):
            return Searcher.FINISHED
        trial = self._next() if self._queue.running < self._places else None
        if trial is None:
            # The searcher may just have ended; Tune would ask without end.
            return None if self._queue.waiting or self._queue.running else Searcher.FINISHED
        self._begun[trial_id] = trial
        return {"trial_id": trial.trial_id, "params": trial.params()}

    def _next(self) -> Trial | None:
        """Return the trial that begins now; a searcher is asked while those that it chose wait for others."""
        trial = self._queue.next()
        while trial is None and self._chosen is not None and self._queue.waiting < self._places:
            chosen = self._chosen.next()
            if chosen is None:
                return None
            self._queue.add(chosen)
            trial = self._queue.next()
        return trial

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Look whether the cycle 0 of a trial is there now."""
        report = TrialReport.from_flat_metrics(result)
        if any((cycle.arm, cycle.cycle) == (DISTILLED, 0) for cycle in report.cycles):
            self._queue.cycle_0_done(self._begun[trial_id])
        if self._chosen is not None:
            self._chosen.reported(self._begun[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Free the place of a trial that has ended, well or not."""
        if trial_id in self._ended:  # Tune starts a trial again if a callback failed at its end
            return
        self._ended.add(trial_id)
        self._queue.trial_ended(self._begun[trial_id])
        if self._chosen is not None:
            self._chosen.ended(self._begun[trial_id], result, error)

    def end(self) -> None:
        """Note that the session ends, perhaps before its trials."""
        if self._chosen is not None:
            self._chosen.end()

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tell Tune that places are counted here."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: what is finished stands in the sweep's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, see `save`."""
