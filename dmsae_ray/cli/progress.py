"""How far the trials of a sweep are, how fast they are and when they end: plain numbers, fed with what trials report.

Times are seconds of any one clock. What is not known yet is None.
"""

import threading
from collections import deque
from dataclasses import dataclass, field, replace
from statistics import median

from dmsae_ray.cli.progress_view import CycleValues, State, SweepView, TrialView
from dmsae_ray.distill import DISTILLED, is_chain
from dmsae_ray.plan import CycleSetting, Done, Pace, RunningTrial, Trial, Work, seconds_left, trainings_left
from dmsae_ray.results import Steered, TrialReport, TrialResult

_POINTS = 6
"""Reports of a training behind its rate."""
_RECENT = 20
"""Trainings, and begins of trials, behind the pace of a sweep."""


@dataclass
class _Track:
    """What is known of one trial."""

    trial: Trial
    state: State = "waiting"
    done: dict[tuple[str, int], None] = field(default_factory=dict)
    has_cycle_0: bool = False
    begun: float | None = None
    """When it began in this session."""
    training: tuple[str, int] | None = None
    """Arm and cycle of the current, or the last, training."""
    points: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_POINTS))
    """Times and tokens of the current training."""
    from_start: float | None = None
    """When the current training began; None if it goes on where an earlier one stopped, or this was not seen."""
    goes_on: bool = False
    """Whether the next window is of a training that goes on where an earlier one stopped."""
    walls: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    heard: float = 0.0
    values: CycleValues = field(default_factory=CycleValues)
    cycle: int | None = None
    control: str = ""
    last: int | None = None
    """The last cycle that is done."""
    ended: int = 0
    reason: str = ""


class SweepProgress:
    """The progress of a sweep; any thread may call it.

    Args:
        work: The work of the sweep.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self._tracks = {trial.trial_id: _Track(trial) for trial in work.trials}
        self._walls: deque[float] = deque(maxlen=_RECENT)
        self._starts: deque[float] = deque(maxlen=_RECENT)
        self._running: set[str] = set()
        self._most = 0
        self._ended = 0
        self._lock = threading.RLock()

    # --- what happens ---

    def begin(self, trial_id: str, now: float, *, again: bool = True) -> None:
        """Note that a trial begins, or is started again.

        Args:
            trial_id: Name of the trial.
            now: The time.
            again: Whether a trial that runs is started again; else nothing is noted of it.
        """
        with self._lock:
            track = self._tracks.get(trial_id)
            if track is None or track.state == "finished" or (track.state == "running" and not again):
                return
            track.state, track.begun, track.heard, track.reason = "running", now, now, ""
            track.training = track.from_start = None
            track.goes_on = False
            track.points.clear()
            self._running.add(trial_id)
            self._most = max(self._most, len(self._running))

    def again(self, trial_id: str, now: float) -> None:
        """Note that a training was taken up again: its rate begins anew."""
        with self._lock:
            track = self._tracks.get(trial_id)
            if track is not None:
                track.points.clear()
                track.from_start, track.heard, track.goes_on = None, now, True

    def report(self, trial_id: str, report: TrialReport, now: float) -> None:
        """Note what a trial reports."""
        with self._lock:
            if report.resumed:
                self.again(trial_id, now)
            track = self._tracks.get(trial_id)
            for window in report.windows:
                if not window.cached and track is not None:
                    tokens = window.step * self.work.batch_of(track.trial)
                    self.window(trial_id, window.arm, window.cycle, tokens, now)
            for cycle in report.cycles:
                self.cycle(trial_id, cycle.arm, cycle.cycle, CycleValues.of(cycle), now, found=cycle.cached)

    def window(self, trial_id: str, arm: str, cycle: int, tokens: float, now: float) -> None:
        """Note how far a training is.

        Args:
            trial_id: Name of the trial.
            arm: What is trained.
            cycle: Its cycle.
            tokens: Tokens of this training so far.
            now: The time.
        """
        with self._lock:
            track = self._tracks.get(trial_id)
            if track is None or (arm, cycle) in track.done:
                return
            if (arm, cycle) != track.training or (track.points and tokens < track.points[-1][1]):
                if track.points and track.points[-1][1] > 0:  # not the begin that the end of the one before is
                    track.points.clear()
                    track.from_start = None
                track.training = (arm, cycle)
            track.goes_on = False
            self._name(track, arm, cycle)
            if track.points and track.points[-1][0] >= now:  # one report may hold several windows
                now, _ = track.points.pop()
            track.points.append((now, tokens))
            track.heard = now
            self._note_start(track)

    def cycle(
        self, trial_id: str, arm: str, cycle: int, values: CycleValues, now: float | None, *, found: bool = False
    ) -> None:
        """Note that a cycle, a control or a transfer is done.

        Args:
            trial_id: Name of the trial.
            arm: What was trained.
            cycle: Its cycle.
            values: What it gave.
            now: The time; None if it was done before this session.
            found: Whether it was found instead of trained.
        """
        with self._lock:
            track = self._tracks.get(trial_id)
            if track is None:
                return
            if (arm, cycle) in track.done:
                self._next(track, now)
                return
            if now is not None and track.from_start is not None and not found:
                wall = (now - track.from_start) / track.trial.budget
                track.walls.append(wall)
                self._walls.append(wall)
            if self.work.counts(cycle):
                track.done[arm, cycle] = None
            own = own_arm(track.trial)
            if arm == own:
                track.values = values
                track.has_cycle_0 |= cycle == 0 and self.work.shares_cycle_0
                track.last = cycle
            self._name(track, arm, cycle)
            self._next(track, now)
            if now is not None and track.state == "running" and len(track.done) < self.work.trainings_of_trial:
                last = cycle == self.work.cycles or (arm != own and not is_chain(arm))
                self._name(track, "control" if last else arm, cycle if last else cycle + 1)

    def end(self, trial_id: str, state: State, reason: str = "") -> None:
        """Note that a trial has ended as `state`, or waits again since the session ended."""
        with self._lock:
            track = self._tracks.get(trial_id)
            if track is None or track.state == "finished":
                return
            self._ended += 1
            self._running.discard(trial_id)
            track.state, track.reason, track.ended = state, reason, 0 if state == "waiting" else self._ended
            track.begun = track.from_start = None
            track.points.clear()

    def finished(self, result: TrialResult) -> None:
        """Note what a trial found that has finished, perhaps in another session."""
        with self._lock:
            for report in (*result.reports, *result.beside):
                self.cycle(result.trial_id, report.arm, report.cycle, CycleValues.of(report), None, found=True)
            self.end(result.trial_id, "finished")

    def not_run(self, steered: Steered) -> None:
        """Note which trials a scheduler has stopped, or a searcher has not asked for."""
        for trial_id, reason in steered.reasons(list(self._tracks)).items():
            self.end(trial_id, "stopped", reason)

    def stop(self) -> None:
        """Note that the session ended: what ran waits for the next one, which may be faster or slower."""
        with self._lock:
            for trial_id in list(self._running):
                self.end(trial_id, "waiting")
            for track in self._tracks.values():
                track.walls.clear()
            self._walls.clear()
            self._starts.clear()
            self._most = 0

    def retry(self) -> None:
        """Note that a new session begins: what failed in an earlier one waits to be tried again."""
        with self._lock:
            self.stop()
            for trial_id, track in self._tracks.items():
                if track.state == "failed":
                    self.end(trial_id, "waiting")

    # --- what is known ---

    def done(self) -> dict[str, Done]:
        """Return how far each trial is, by name."""
        with self._lock:
            return {
                name: Done(len(track.done), track.has_cycle_0, track.state in ("finished", "failed", "stopped"))
                for name, track in self._tracks.items()
            }

    def view(self, now: float) -> SweepView:
        """Return what is shown at a time."""
        with self._lock:
            order = {"running": 0, "failed": 1, "stopped": 2, "finished": 3, "waiting": 4}
            # While others run, the news are of interest; afterwards a person compares settings.
            tracks = sorted(self._tracks.values(), key=lambda t: (order[t.state], -t.ended if self._running else 0))
            training: dict[object, str] = {
                self.work.cycle_0(t.trial): name
                for name, t in self._tracks.items()
                if t.state == "running" and not t.has_cycle_0
            }
            ends = {t.trial.trial_id: self._seconds_left(t, now) for t in tracks if t.state == "running"}
            views = tuple(self._view(t, training, ends.get(t.trial.trial_id), now) for t in tracks)
            rates = [view.tokens_per_s for view in views if view.state == "running" and view.tokens_per_s is not None]
            left = self._trainings_left()
            return SweepView(
                trials=views,
                trainings=self.work.trainings - left,
                trainings_in_all=self.work.trainings,
                cycles=self.work.cycles,
                tokens_per_s=sum(rates) if rates else None,
                seconds_left=self._sweep_left(ends, now),
            )

    def _view(self, track: _Track, training: dict[object, str], left: float | None, now: float) -> TrialView:
        running = track.state == "running"
        share = None
        if running and track.points:
            share = min(1.0, track.points[-1][1] / self.work.tokens_of(track.trial))
        waits_for = ""
        if track.state == "waiting":
            shared = self.work.cycle_0(track.trial)
            other = training.get(shared) if shared is not None and not track.has_cycle_0 else None
            waits_for = "a place" if other is None else f"cycle 0 of {other}"
        return TrialView(
            trial=track.trial,
            state=track.state,
            cycle=track.cycle if running else track.last,
            control=track.control if running else "",
            share=share,
            tokens_per_s=self._rate(track, now) if running else None,
            values=track.values,
            seconds_left=left,
            trainings=len(track.done),
            waits_for=waits_for,
            reason=track.reason,
        )

    def _trainings_left(self) -> int:
        """Return the trainings to come; those that a failed trial will not make count too."""
        finished = {name: self._tracks[name].state == "finished" for name in self._tracks}
        done = {name: replace(item, ended=finished[name]) for name, item in self.done().items()}
        return trainings_left(self.work, done)

    def _next(self, track: _Track, now: float | None) -> None:
        """Note that one training is done, and that the next begins now."""
        track.training = track.from_start = None
        track.points.clear()
        if now is not None:
            track.heard = now
            if not track.goes_on:
                track.points.append((now, 0.0))
                track.from_start = now

    # --- how fast it is ---

    def _rate(self, track: _Track, now: float) -> float | None:
        """Return the tokens a second of the current training, from its last reports; it sinks where none comes."""
        if track.training is None or len(track.points) < 2:
            return None
        (first, before), (last, tokens) = track.points[0], track.points[-1]
        span, gap = last - first, (last - first) / (len(track.points) - 1)
        if now - last > 2 * gap:
            span += now - last - gap
        return (tokens - before) / span if span > 0 and tokens > before else None

    def _last_rates(self, now: float) -> list[float]:
        rates = (self._rate(t, now) for t in self._tracks.values() if t.state == "running")
        return [rate for rate in rates if rate is not None]

    def _training_seconds(self, track: _Track | None, now: float) -> float | None:
        """Return the seconds of a training of recipe.tokens: as seen in the trial, else in others, else by the rate."""
        walls = list(track.walls) if track is not None and track.walls else list(self._walls)
        if walls:
            return median(walls)
        own = None if track is None else self._rate(track, now)
        rates = [own] if own is not None else self._last_rates(now)
        return self.work.training_tokens / median(rates) if rates else None

    def _note_start(self, track: _Track) -> None:
        """Learn how long the start of a trial took, when the second report of its first training shows its rate."""
        if track.begun is None or track.from_start is not None or len(track.points) != 2 or track.done:
            return
        (first, before), (last, tokens) = track.points
        if last > first and tokens > before and before <= (tokens - before) * 1.5:
            started = first - before * (last - first) / (tokens - before)
            self._starts.append(max(0.0, started - track.begun))
            track.from_start = max(track.begun, started)

    def _start_seconds(self) -> float:
        return median(self._starts) if self._starts else 0.0

    def _seconds_left(self, track: _Track, now: float, trainings: int | None = None) -> float | None:
        """Return the seconds until a running trial ends, or until it has `trainings` more."""
        to_come = self.work.trainings_of_trial - len(track.done) if trainings is None else trainings
        each = self._training_seconds(track, now)
        if each is None or to_come < 1:
            return None
        each *= track.trial.budget
        if not track.points:
            current = each + self._start_seconds()
        else:
            current = each * (1.0 - min(1.0, track.points[-1][1] / self.work.tokens_of(track.trial)))
            if track.from_start is not None:  # behind the last step comes the scoring
                current = max(current, each - (track.heard - track.from_start))
        left = max(0.0, current - (now - track.heard)) + (to_come - 1) * each
        return left if left >= 1.0 else None

    def _sweep_left(self, ends: dict[str, float | None], now: float) -> float | None:
        each = self._training_seconds(None, now)
        done = self.done()
        if each is None or all(item.ended for item in done.values()):
            return None
        running = []
        for name, seconds in ends.items():
            track = self._tracks[name]
            first = 0.0 if track.has_cycle_0 else self._seconds_left(track, now, 1) or each
            running.append(RunningTrial(track.trial, seconds or 1.0, first))
        if not running:
            return None
        return seconds_left(self.work, done, running, Pace(each, self._start_seconds(), max(self._most, 1)))

    def _name(self, track: _Track, arm: str, cycle: int) -> None:
        track.cycle, track.control = cycle, "" if arm == own_arm(track.trial) else arm


def own_arm(trial: Trial) -> str:
    """Return the arm of a trial itself; what has another arm in it is a control."""
    return DISTILLED if isinstance(trial.setting, CycleSetting) else trial.setting.arm
