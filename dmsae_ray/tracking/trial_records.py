"""Turn what trials report into records: one place says which run, which name and which step each number has."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from dmsae_ray.distill import CycleReport, is_chain
from dmsae_ray.plan import Params, Trial
from dmsae_ray.results import CORE_FILE, SUMMARY_FILE, TrialReport, TrialResult, cycle_name, load_results
from dmsae_ray.tracking.names import (
    CURVE,
    CYCLE,
    SETTING,
    RunName,
    curve_run,
    cycle_numbers,
    differing,
    final_numbers,
    own_arm,
    run_params,
    setting_numbers,
    window_numbers,
)
from dmsae_ray.tracking.tracker import NOTE_TAG, SweepTracker

COLOUR_TAG = "mlflow.runColor"
FAILURE_TAG = "dmsae.failure"
STOPPED_TAG = "dmsae.stopped"
ADDRESS_TAG = "dmsae.sae"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
"""The colours of Okabe and Ito, which colour-blind readers can distinguish too, with grey in place of black."""


class TrialRecords:
    """The runs of a sweep's trials, their controls and their trainings.

    Args:
        tracker: Takes the records.
        trials: All trials of the sweep.
        batch_size: Tokens of one training step, where it is no axis.
        cycles: Where trained SAEs are: `<cycles>/<cycle key>/sae`.
    """

    def __init__(self, tracker: SweepTracker, trials: Sequence[Trial], batch_size: int, cycles: str) -> None:
        self._tracker = tracker
        self._batch = batch_size
        self._cycles = cycles
        self._differing = differing(trials)
        self._order = sorted({trial.setting for trial in trials}, key=lambda setting: setting.order)
        self._ended: dict[str, dict[int, CycleReport]] = {}

    def begin(self, trial_id: str, params: Params) -> None:
        """Begin the run of a trial, or open it again: what had failed or been stopped goes on."""
        for tag in (FAILURE_TAG, STOPPED_TAG):
            self._tracker.untag(trial_id, tag)
        self._open(RunName(trial_id), params)

    def report(self, trial_id: str, params: Params, report: TrialReport) -> None:
        """Record the windows and the cycles of a report; a cycle that has ended ends the run of its training."""
        for run, windows in groupby(report.windows, key=lambda window: curve_run(trial_id, params, window)):
            self._open(run, params)
            batch = int(params.get("recipe.batch_size", self._batch))
            points = [(window.step * batch, window_numbers(window)) for window in windows]
            self._tracker.curve(str(run), CURVE, points)
        for cycle in report.cycles:
            self._cycle(trial_id, params, cycle)

    def finish(self, result: TrialResult) -> None:
        """Record what is known only at the end of a trial, and end its runs."""
        run = RunName(result.trial_id)
        params = result.trial.params()
        self.begin(result.trial_id, params)
        self.report(result.trial_id, params, TrialReport(cycles=(*result.reports, *result.beside)))
        self._tracker.metrics(str(run), "final", final_numbers(result), result.last.cycle)
        self._tracker.tag(str(run), NOTE_TAG, self._note(result))
        self._tracker.tag(str(run), ADDRESS_TAG, self._address(result.last))
        if result.folder is not None:
            for name in (SUMMARY_FILE, CORE_FILE):
                if (result.folder / name).is_file():
                    self._tracker.artifact(result.folder / name, str(run))
        self._tracker.end(str(run), "FINISHED")

    def stop(self, trial_id: str, reason: str) -> None:
        """End the runs of a trial that a scheduler has stopped."""
        self._tracker.tag(trial_id, STOPPED_TAG, reason)
        self._tracker.tag(trial_id, NOTE_TAG, f"**Stopped**: {reason}.")
        self._tracker.end(trial_id, "KILLED")

    def fail(self, trial_id: str, reason: str) -> None:
        """End the runs of a trial that cannot go on."""
        self._tracker.tag(trial_id, FAILURE_TAG, reason)
        self._tracker.tag(trial_id, NOTE_TAG, f"**Failed**: {reason}")
        self._tracker.end(trial_id, "FAILED")

    def _open(self, run: RunName, params: Params) -> None:
        if self._tracker.is_open(str(run)):
            return
        tags = {} if run.cycle is not None else {COLOUR_TAG: self._colour(params)}
        self._tracker.run(str(run), run_params(run, params, self._differing), tags)
        if run.cycle is None:
            self._tracker.metrics(str(run), SETTING, setting_numbers(params), 0)

    def _cycle(self, trial_id: str, params: Params, cycle: CycleReport) -> None:
        run = RunName(trial_id, "" if cycle.arm == own_arm(params) else cycle.arm)
        self._open(run, params)
        ended = self._ended.setdefault(str(run), {})
        ended[cycle.cycle] = cycle
        chain = is_chain(run.arm)
        before = [] if run.arm and not chain else [ended[n] for n in range(cycle.cycle) if n in ended]
        self._tracker.metrics(str(run), CYCLE, cycle_numbers(cycle, before), cycle.cycle)
        sae = self._address(cycle)
        if run.arm:
            name = cycle_name(run.arm, cycle.cycle)
            self._tracker.tag(str(run), ADDRESS_TAG, sae)
            self._tracker.tag(str(run), NOTE_TAG, f"{name} of trial {trial_id}. SAE: `{sae}`")
            if not chain:
                self._tracker.end(str(run), "FINISHED")
        if chain or (not run.arm and "arm" not in params):
            training = replace(run, cycle=cycle.cycle)
            if self._tracker.is_open(str(training)):  # not where the cycle was trained by another trial
                self._tracker.tag(str(training), ADDRESS_TAG, sae)
                self._tracker.end(str(training), "FINISHED")

    def _note(self, result: TrialResult) -> str:
        """Return what a person reads first of a trial, as Markdown."""
        last = result.last
        lines = [f"{result.setting.label}, seed {result.trial.seed}."]
        if result.collapse:
            lines.append(f"**Collapsed**: {result.collapse}.")
        if result.core_sizes:
            lines.append(f"Core by cycle: {' → '.join(str(size) for size in result.core_sizes)} latents.")
        if last.carryover is not None and last.chance is not None:
            beside = [f"chance {last.chance:.2f}"]
            beside += [f"{n} {r.carryover:.2f}" for n, r in result.controls.items() if r.carryover is not None]
            lines.append(f"In the last cycle {last.carryover:.0%} came back ({', '.join(beside)}).")
        if result.survival:
            cohorts = ", ".join(f"{alive[-1]} of {alive[0]} from cycle {c}" for c, alive in result.survival.items())
            lines.append(f"Lineage, still in the core at the end: {cohorts}.")
        for name, chain in result.chains.items():
            left = f"{chain.survivors[-1]} of {chain.survivors[0]}" if chain.survivors else "none"
            lines.append(f"Of a {name.replace('_', ' ')} core in place of cycle 0's, {left}.")
        lines.append(f"SAE of the last cycle: `{self._address(last)}`")
        return "\n\n".join(lines)

    def _address(self, cycle: CycleReport) -> str:
        return f"{self._cycles}/{cycle.key}/sae"

    def _colour(self, params: Params) -> str:
        setting = Trial.from_params(params).setting
        place = self._order.index(setting) if setting in self._order else 0
        return _shade(_PALETTE[place % len(_PALETTE)], place // len(_PALETTE))


def _shade(colour: str, turn: int) -> str:
    """Return a colour of the palette as it is, and lighter or darker where the palette is used again."""
    if turn == 0:
        return colour
    towards, part = (255, 0)[turn % 2 == 0], 1 - 0.6 ** ((turn + 1) // 2)
    channels = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(value + (towards - value) * part):02X}" for value in channels)


def record_finished(records: TrialRecords, sweep_dir: str | Path) -> None:
    """Record what the journal lacks of every finished trial of a sweep folder.

    It is for trials that finished under an earlier controller which stopped before it recorded them. What is recorded
    already is skipped.
    """
    for result in load_results(sweep_dir):
        records.finish(result)
