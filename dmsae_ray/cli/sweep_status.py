"""What is known of a sweep from its files alone; nothing is locked or changed.

A sweep's journal is on the machine that runs it. Where `output` is a bucket and this is another machine, what workers
write is known: finished trials, those that have begun, the harvest, and whether the sweep is run.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from dmsae_ray.cli.progress import SweepProgress
from dmsae_ray.cli.progress_view import SweepView
from dmsae_ray.cli.recorded_progress import replay
from dmsae_ray.config import Experiment, parse_experiment, refuse_secrets
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import Folder
from dmsae_ray.plan import expand, many, work_of
from dmsae_ray.results import (
    SUMMARY_FILE,
    Steered,
    TrialResult,
    folders_of,
    load_results,
    matched_baselines,
    parse_result,
    recorded_stores,
)
from dmsae_ray.store import StoreProgress, store_progress
from dmsae_ray.sweep import ControllerMark, controller_of
from dmsae_ray.tracking import JOURNAL_FILE, read_outline

DELIVERED_FILE = "journal.delivered.json"
_CONFIG_FILE = "config.yaml"
_REPORTS = ("report.html", "report.md")
_CONNECTIONS = 16

State = Literal["running", "finished", "failed", "interrupted", "not begun"]


@dataclass(frozen=True)
class SweepPlace:
    """Where a sweep's files are.

    Attributes:
        name: Name of its folder.
        shared: Its folder below `output`, where workers write.
        here: Its folder on this machine, with the journal and the report if the controller ran here.
        output: The `output` of its experiment.
    """

    name: str
    shared: Folder
    here: Path
    output: Folder


@dataclass(frozen=True)
class SweepStatus:
    """What is known of a sweep.

    Attributes:
        place: Where its files are.
        state: Whether it runs, has finished or failed, or was interrupted.
        controller: The process that runs it, or ran it last.
        view: Its trials.
        harvest: How far its activations are; None if they are not begun.
        last: When something was recorded last, in seconds since 1970; None if there is no journal here.
        undelivered: Records that MLflow does not have yet; None if there is no journal here.
        reports: Files of its report.
        notes: What else a person should know.
        steered: Whether a scheduler or a searcher of Ray Tune decides about its trials.
    """

    place: SweepPlace
    state: State
    controller: ControllerMark | None
    view: SweepView
    harvest: StoreProgress | None
    last: float | None
    undelivered: int | None
    reports: tuple[Path, ...]
    notes: tuple[str, ...]
    steered: bool = False


def sweeps_at(place: str) -> list[SweepPlace]:
    """Return the sweep whose folder is `place`, or the sweeps of the output `place`, by name.

    Raises:
        ConfigError: There is none, or the place names a password.
        DataError: The place cannot be read.
    """
    refuse_secrets({"folder": place})
    folder = Folder(place if "://" in place else str(Path(place).expanduser().absolute()))
    if folder.size(_CONFIG_FILE) is not None:
        return [_place_of(folder)]
    names = sorted(str(entry.base_name) for entry in (folder / "sweeps").entries())
    found = [folder / "sweeps" / name for name in names if (folder / "sweeps" / name).size(_CONFIG_FILE) is not None]
    if not found:
        raise ConfigError(
            f"'{folder}' is neither a sweep's folder nor an output with sweeps; give <output>/sweeps/<name>-<hash>, "
            "or the `output` of an experiment"
        )
    return [_place_of(sweep) for sweep in found]


def _place_of(sweep: Folder) -> SweepPlace:
    """Return the places of a sweep whose folder is given: the one below `output`, or the controller's."""
    local, experiment = sweep.local, _experiment_in(sweep)
    path, mark, options = sweep.uri.partition("?") if local is None else (str(local), "", "")
    above, _, name = path.rstrip("/").rpartition("/")
    output = Folder(above.rpartition("/")[0] + mark + options)
    if local is None:
        here = folders_of(experiment, name).sweep
        return SweepPlace(name, sweep, here, output)
    if Folder(experiment.output).local is None:
        output = Folder(experiment.output)
    return SweepPlace(name, output / "sweeps" / name, local, output)


def _experiment_in(sweep: Folder) -> Experiment:
    try:
        return parse_experiment(yaml.safe_load(sweep.read(_CONFIG_FILE) or b""))
    except (yaml.YAMLError, TypeError, AttributeError):
        raise DataError(f"{sweep / _CONFIG_FILE} is not the config of a sweep") from None


def status_of(place: SweepPlace, say: Callable[[str], None] = lambda line: None) -> SweepStatus:
    """Return what is known of a sweep.

    Args:
        place: Where its files are.
        say: Called with a line when it takes a while to see whether another machine runs the sweep.

    Raises:
        DataError: A file cannot be read.
    """
    experiment = _experiment_in(place.shared)
    controller = controller_of(place.shared, say)
    runs = controller is not None and controller.runs
    progress, journal = SweepProgress(work_of(experiment)), place.here / JOURNAL_FILE
    began = None if controller is None or not runs else controller.began
    notes: list[str] = []
    recorded = replay(progress, read_outline(journal), began) if journal.is_file() else None
    if recorded is None:
        notes += _without_journal(place, progress, controller)
    if not runs:
        progress.stop()
    for result in _finished_elsewhere(place, progress):
        progress.finished(result)
    steered = Steered.read(place.shared)
    progress.not_run(steered)
    now = time.time()
    view, harvest = progress.view(now), _harvest_of(place, experiment)
    to_come = _matched_to_come(place, experiment)
    if to_come:
        notes.append(f"still to be trained: {many(to_come, 'baseline')} at measured L0")
    undelivered = None if recorded is None else max(0, recorded.records - _delivered(place.here))
    reports = tuple(place.here / name for name in _REPORTS if (place.here / name).is_file())
    state = _state(view, runs, controller)
    state = "interrupted" if state == "finished" and to_come else state
    return SweepStatus(
        place,
        state,
        controller,
        view,
        harvest,
        None if recorded is None else recorded.last,
        undelivered,
        reports,
        tuple(notes),
        steered != Steered(),
    )


def _harvest_of(place: SweepPlace, experiment: Experiment) -> StoreProgress | None:
    """Return how far the activations are; of several stores, how far the first is that is begun and not complete."""
    stores = recorded_stores(place.shared, experiment)
    found = [
        store_progress(place.output / "stores" / stores[part.store_label], part.activations)
        for part in experiment.parts()
        if part.store_label in stores
    ]
    begun = [one for one in found if one.stage != "none"]
    return next((one for one in begun if one.stage != "complete"), begun[-1] if begun else None)


def _state(view: SweepView, runs: bool, controller: ControllerMark | None) -> State:
    if runs:
        return "running"
    if view.count("finished") + view.count("stopped") == len(view.trials):
        return "finished"
    if view.count("waiting") == 0:
        return "failed"
    return "interrupted" if controller is not None else "not begun"


def _matched_to_come(place: SweepPlace, experiment: Experiment) -> int:
    """Return how many trials the second round of a transfer has that its config does not name yet."""
    if experiment.transfer is None or not experiment.transfer.matches_l0:
        return 0
    found = matched_baselines(experiment, load_results(place.here))
    return 0 if found is None else len(expand(found.experiment)) - len(expand(experiment))


def _finished_elsewhere(place: SweepPlace, progress: SweepProgress) -> list[TrialResult]:
    """Return the results of finished trials that the journal on this machine does not know of."""
    known = {name for name, done in progress.done().items() if done.ended and done.trainings}
    trials = place.shared / "trials"
    found = {str(entry.base_name) for entry in trials.entries()} - known

    def read(name: str) -> TrialResult | None:
        content = (trials / name).read(SUMMARY_FILE)
        try:
            return None if content is None else parse_result(json.loads(content))
        except ValueError:
            raise DataError(f"{trials / name / SUMMARY_FILE} is not a trial's summary") from None

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return [result for result in pool.map(read, sorted(found)) if result is not None]


def _without_journal(place: SweepPlace, progress: SweepProgress, controller: ControllerMark | None) -> list[str]:
    """Note the trials that have begun, from their checkpoints; return what a person should know."""
    begun = {str(entry.base_name): entry for entry in (place.shared / "train").entries()}
    notes = []
    for name in begun:
        progress.begin(name, time.time())
    if place.shared.local is None:
        where = f"on {controller.host}" if controller is not None else "with the command that runs the sweep"
        notes.append(f"the journal is {where}; from here only what is in {place.output} is known")
    stored = sum(not str(entry.base_name).startswith(".") for entry in (place.output / "cycles").entries())
    if stored:
        notes.append(f"{stored:,} trainings are stored in {place.output / 'cycles'}, those of other sweeps included")
    return notes


def _delivered(here: Path) -> int:
    """Return how many records MLflow is known to have; of several servers, the one that has most counts."""
    try:
        marks = json.loads((here / DELIVERED_FILE).read_text(encoding="utf-8")).values()
        return max((m if isinstance(m, int) else int(m["to"]) - len(m["late"]) for m in marks), default=0)
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return 0
