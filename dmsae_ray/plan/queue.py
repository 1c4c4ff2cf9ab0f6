"""The order in which trials begin: none begins that would have to wait for another one."""

from collections.abc import Sequence

from dmsae_ray.plan.trials import Trial


class TrialQueue:
    """Trials that wait, and those that run.

    Trials that differ only in coverage have the same cycle 0. While one of them trains it, the others do not begin:
    they would hold their workers and wait.

    Args:
        trials: The trials, in their order.
        shares_cycle_0: Whether trials train a cycle 0; else nothing is shared.
    """

    def __init__(self, trials: Sequence[Trial], shares_cycle_0: bool) -> None:
        self._waiting = list(trials)
        self._shares = shares_cycle_0
        self._running: list[Trial] = []
        self._trained: set[object] = set()
        self._in_training: dict[object, Trial] = {}

    def add(self, trial: Trial) -> None:
        """Let another trial wait."""
        self._waiting.append(trial)

    @property
    def waiting(self) -> int:
        """Number of trials that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of trials that have begun and not ended."""
        return len(self._running)

    def next(self) -> Trial | None:
        """Return the first trial that need not wait, which begins now; None if there is none."""
        for trial in self._waiting:
            cycle_0 = self._cycle_0(trial)
            if cycle_0 in self._in_training:
                continue
            if cycle_0 is not None and cycle_0 not in self._trained:
                self._in_training[cycle_0] = trial
            self._waiting.remove(trial)
            self._running.append(trial)
            return trial
        return None

    def cycle_0_done(self, trial: Trial) -> None:
        """Note that the cycle 0 of a trial is stored: trials that share it find it."""
        cycle_0 = self._cycle_0(trial)
        if cycle_0 is not None:
            self._in_training.pop(cycle_0, None)
            self._trained.add(cycle_0)

    def is_trained(self, trial: Trial) -> bool:
        """Whether the cycle 0 of a trial is stored."""
        return self._cycle_0(trial) in self._trained

    def trial_ended(self, trial: Trial) -> None:
        """Note that a trial has ended, well or not."""
        self._running.remove(trial)
        cycle_0 = self._cycle_0(trial)
        if self._in_training.get(cycle_0) is trial:
            del self._in_training[cycle_0]

    def _cycle_0(self, trial: Trial) -> object:
        """Return what the cycle 0 of a trial depends on; None if it has none to share."""
        return trial.cycle_0 if self._shares else None
