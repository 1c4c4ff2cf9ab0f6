"""The command `dmsae export`: a trained SAE, named by its folder or by its trial, in a peer's format."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmsae_ray.config import Experiment
from dmsae_ray.distill import CycleReport
from dmsae_ray.errors import ConfigError
from dmsae_ray.files import Folder, on_this_machine
from dmsae_ray.results import SUMMARY_FILE, Folders, TrialResult, cycle_name, experiment_of, folders_of, parse_result
from dmsae_ray.sae import (
    about_sae,
    export_dictionary_learning,
    export_saelens,
    load_sae,
    sae_folder,
    saelens_metadata,
)
from dmsae_ray.tracking import destination_of, register_sae

_CONFIG_FILE, _TRIALS = "config.yaml", "trials"
_SAE_FILES = ("config.json", "sae.safetensors")
_MOST_LISTED = 12


@dataclass(frozen=True)
class Wanted:
    """Which SAE of a sweep is wanted.

    Attributes:
        trial: Name of the trial.
        cycle: Its cycle; None for the last one.
        arm: A control, in place of the trial's own SAE; None for that.
    """

    trial: str | None = None
    cycle: int | None = None
    arm: str | None = None


def export(place: str, target: str, wanted: Wanted, format_: str, given: dict[str, Any]) -> int:
    """Write an SAE in a peer's format; return the exit code.

    Args:
        place: Folder of an SAE, here or on the Hub, of a sweep, or of a trial of a sweep.
        target: Folder to write.
        wanted: Which SAE of a sweep.
        format_: 'saelens' or 'dictionary_learning'.
        given: What is not taken from the note with the SAE: model, layer, context.

    Raises:
        ConfigError: There is no such trial, cycle or control; something is not noted; or the folder cannot be written.
        DataError: A file is missing or damaged.
    """
    with _sae_folder(place, wanted) as folder:
        sae, about = load_sae(folder), about_sae(folder)
    known: dict[str, Any] = {}
    for name in ("model", "layer", "context")[: 3 if format_ == "saelens" else 2]:
        known[name] = about.get(name) if given[name] is None else given[name]
        if known[name] is None:
            raise ConfigError(f"--{name} is missing; nothing is noted with the SAE '{place}'")
    for name, least in (("layer", 0), ("context", 1)):
        if known.get(name, least) < least:
            raise ConfigError(f"--{name} is {known[name]}; it must be at least {least}")
    try:
        if format_ == "saelens":
            export_saelens(sae, target, **saelens_metadata({**about, **known}))
        else:
            export_dictionary_learning(sae, target, lm_name=known["model"], layer=known["layer"])
    except OSError as error:
        raise ConfigError(f"FOLDER is '{target}'; it cannot be written ({error.strerror or error})") from None
    print(f"{format_} format: {target}")
    return 0


def register(place: str, name: str, wanted: Wanted) -> int:
    """Register an SAE of a sweep in the sweep's MLflow store; return the exit code.

    Args:
        place: Folder of a sweep, or of a trial of a sweep.
        name: Name of the model.
        wanted: Which SAE.

    Raises:
        ConfigError: There is no such trial, cycle or control, or the store does not take the model.
        DataError: A file is missing or damaged.
    """
    folder = Path(place).expanduser().absolute()
    sweep = folder.parent.parent if folder.parent.name == _TRIALS else folder
    experiment = experiment_of(sweep)
    with _sae_folder(place, wanted) as found:
        sae = load_sae(found)
        owner = experiment.tracking.experiment or experiment.name
        version = register_sae(destination_of(experiment), owner, name, found, sae.d_model, sae.n_latents)
    print(f"registered: mlflow.pyfunc.load_model({version!r}) encodes activations [n, {sae.d_model}]")
    return 0


@dataclass(frozen=True)
class Chosen:
    """An SAE of a sweep.

    Attributes:
        experiment: The sweep's experiment, at the trial's point of further axes.
        folders: The sweep's folders.
        result: The trial.
        report: The training of the SAE: a cycle, or a control.
        place: The folder of the SAE.
        here: The same, or a copy of it where it is in a bucket.
    """

    experiment: Experiment
    folders: Folders
    result: TrialResult
    report: CycleReport
    place: Folder
    here: Path


@contextmanager
def chosen_sae(sweep: str | Path, wanted: Wanted, said: str = "--trial") -> Iterator[Chosen]:
    """Give an SAE of a sweep; its files are there within the context.

    Args:
        sweep: Folder of the sweep.
        wanted: Which SAE.
        said: What the command line calls the trial.

    Raises:
        ConfigError: There is no such sweep, trial, cycle or control.
        DataError: A file is missing or damaged.
    """
    folder = Path(sweep).expanduser()
    experiment = experiment_of(folder)
    folders = folders_of(experiment, folder.absolute().name)
    result = _result(folders, wanted.trial, said)
    report = _report(result, wanted)
    place = Folder(folders.cycles) / report.key / "sae"
    with on_this_machine(place, _SAE_FILES) as here:
        yield Chosen(experiment.at(result.setting.axes), folders, result, report, place, here)


@contextmanager
def _sae_folder(place: str, wanted: Wanted) -> Iterator[Path]:
    """Give the folder of the SAE, or a copy of it where it is in a bucket or on the Hub."""
    folder = sae_folder(place, f"PLACE is '{place}'")
    if (folder / SUMMARY_FILE).is_file() and folder.parent.name == _TRIALS:
        wanted = Wanted(folder.name if wanted.trial is None else wanted.trial, wanted.cycle, wanted.arm)
        folder = folder.parent.parent
    if not (folder / _CONFIG_FILE).is_file():
        for name, value in vars(wanted).items():
            if value is not None:
                raise ConfigError(f"--{name} is {value}; it needs a sweep's folder, and '{place}' is none")
        yield folder
        return
    with chosen_sae(folder, wanted) as chosen:
        print(f"{wanted.trial}, {cycle_name(chosen.report.arm, chosen.report.cycle)}: {chosen.place}")
        yield chosen.here


def _report(result: TrialResult, wanted: Wanted) -> CycleReport:
    reports, where = result.reports, f"trial {wanted.trial} has cycles"
    if wanted.arm is not None:
        reports = tuple(report for report in result.beside if report.arm == wanted.arm)
        only = "cycle" if len(reports) == 1 else "cycles"
        where = f"{wanted.arm} was trained in {only}"
        if not reports:
            known = _listed(dict.fromkeys(report.arm for report in result.beside))
            raise ConfigError(f"--arm is {wanted.arm}; trial {wanted.trial} has {known or 'no controls'}")
    cycles = {report.cycle: report for report in reports}
    chosen = reports[-1].cycle if wanted.cycle is None else wanted.cycle
    if chosen not in cycles:
        raise ConfigError(f"--cycle is {chosen}; {where} {_listed(cycles)}")
    return cycles[chosen]


def _result(folders: Folders, trial: str | None, said: str) -> TrialResult:
    trials = folders.shared / _TRIALS
    content = None if trial is None or "/" in trial else (trials / trial).read(SUMMARY_FILE)
    if content is not None:
        assert trial is not None, "it has a summary"
        return parse_result(json.loads(content), folders.trial(trial))
    names = sorted(str(entry.base_name) for entry in trials.entries())
    finished = [name for name in names if (trials / name).size(SUMMARY_FILE) is not None]
    there = f"finished are {_listed(finished)}" if finished else "none has finished yet"
    what = f"{said} is missing: a sweep has many SAEs" if trial is None else f"{said} is {trial}"
    raise ConfigError(f"{what}; of sweep {folders.name} {there}")


def _listed(names: Iterable[object]) -> str:
    shown = [str(name) for name in names]
    more = [f"and {len(shown) - _MOST_LISTED} more"] if len(shown) > _MOST_LISTED else []
    return ", ".join([*shown[:_MOST_LISTED], *more])
