"""Where the files of a run are.

All sweeps with the same `output` share its stores and cycles; every other file belongs to one sweep. `output` is a
local (or shared) folder, or a URI such as s3://bucket/runs. Workers write there. The controller's own files (config,
journal, report, figures, MLflow's database) are local: in `output` itself or, where that is a URI, in ./dmsae-runs on
the machine that runs the controller.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dmsae_ray.config import Experiment, load_experiment, parse_experiment
from dmsae_ray.distill import CORE_FILE as CORE_FILE
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.files import Folder, decode_record, nan_to_null
from dmsae_ray.plan import Trial
from dmsae_ray.results.begun import (
    BEGUN_FILE,
    CONFIG_FILE,
    begun_sweeps,
    differences,
    folder_name,
    sweep_of,
    told_difference,
    version_of,
)

if TYPE_CHECKING:
    from dmsae_ray.distill import Core

log = logging.getLogger(__name__)

SUMMARY_FILE = "summary.json"
INPUTS_FILE = "inputs.json"
STORE_INPUT = "model and corpus (and, for text that Python carries, its version)"
"""What the key of the store is called among the hashes of a sweep's inputs."""
COMMIT = " (Hub commit)"
"""Behind the setting, where a commit is noted among the hashes of a sweep's inputs."""
HOME = "dmsae-runs"


@dataclass(frozen=True)
class Folders:
    """The folders of one experiment.

    Attributes:
        output: Where workers write: an absolute path or a URI.
        home: Where the controller writes; the same place if `output` is local.
        name: Name of the sweep's folder.
    """

    output: Folder
    home: Path
    name: str

    @property
    def stores(self) -> str:
        """Tokens and activations, by store key."""
        return (self.output / "stores").uri

    @property
    def cycles(self) -> str:
        """Finished SAE trainings, by cycle key."""
        return (self.output / "cycles").uri

    @property
    def given(self) -> Folder:
        """Copies of the SAEs and cores that sweeps are given, by the hash of their files."""
        return self.output / "given"

    @property
    def shared(self) -> Folder:
        """The sweep's folder below `output`, where workers write too."""
        return self.output / "sweeps" / self.name

    @property
    def train(self) -> str:
        """Checkpoints of Ray Train, one folder per trial."""
        return (self.shared / "train").uri

    @property
    def sweep(self) -> Path:
        """The sweep's own folder, on the controller's machine."""
        return self.home / "sweeps" / self.name

    @property
    def tune(self) -> Path:
        """Folder of Ray Tune's own files."""
        return self.sweep / "tune"

    def trial(self, trial_id: str) -> Path:
        """Return the controller's folder with the results of one trial: summary.json and the distilled core."""
        return self.sweep / "trials" / trial_id

    def check_inputs_unchanged(self, inputs: dict[str, str], commits: Mapping[str, str] | None = None) -> None:
        """Save the hashes of a sweep's inputs when it first reads them; later, check that they are still the same.

        The config alone is not enough: it names files whose content may change.

        Args:
            inputs: Hashes of the inputs, by setting.
            commits: What is noted beside them: the commits of what comes from the Hub, by setting.

        Raises:
            ConfigError: The sweep of this name was begun with other inputs.
        """
        content = self.shared.read(INPUTS_FILE)
        begun = {} if content is None else json.loads(content)
        changed = [name for name, found in inputs.items() if begun.get(name, found) != found]
        if changed:
            raise ConfigError(
                f"name is '{self.name.rpartition('-')[0]}'; since this sweep was begun, what its config calls "
                f"{' and '.join(changed)} has changed: give another name to begin anew"
            )
        noted = {f"{name}{COMMIT}": commit for name, commit in (commits or {}).items()}
        whole = {**inputs, **noted, **begun}
        if whole != begun:
            self.shared.write(INPUTS_FILE, [json.dumps(whole, indent=1).encode()])

    def publish_trial(self, trial: Trial, summary: dict[str, Any], core: "Core | None") -> None:
        """Write the result of a trial where the controller finds it; a worker calls this.

        The summary is written last, because it marks the trial as finished. It holds null for what was not measured.

        Args:
            trial: The trial.
            summary: What it found, see `distill.DistillationResult.summary`.
            core: Its distilled core; None for a transfer.
        """
        shared = self.shared / "trials" / trial.trial_id
        if core is not None:
            shared.write(CORE_FILE, [core.to_bytes()])
        tree = nan_to_null({"trial_id": trial.trial_id, "params": trial.params(), **summary})
        shared.write(SUMMARY_FILE, [json.dumps(tree, indent=1, allow_nan=False).encode()])

    def fetch(self, trial_id: str) -> Path | None:
        """Return the path of a trial's summary on this machine; copy its files from `output` if needed.

        Returns:
            The path, or None if the trial is not finished.
        """
        summary = self.trial(trial_id) / SUMMARY_FILE
        if not summary.is_file() and self.output.local is None:
            shared, here = self.shared / "trials" / trial_id, Folder(str(self.trial(trial_id)))
            for name in (CORE_FILE, SUMMARY_FILE):
                content = shared.read(name)
                if content is not None:
                    here.write(name, [content])
        return summary if summary.is_file() else None

    def remove_checkpoints(self, finished: Sequence[str]) -> None:
        """Remove the checkpoints that a killed command has left of trials that are finished."""
        with suppress(DmsaeError):  # they only take room
            train = Folder(self.train)
            for entry in train.entries():
                if entry.base_name in finished:
                    (train / str(entry.base_name)).remove()


def folders_of(experiment: Experiment, name: str | None = None) -> Folders:
    """Return the folders of an experiment; nothing is created.

    Args:
        experiment: The experiment.
        name: Name of the sweep's folder; by default that of a sweep that this experiment begins.
    """
    output = Folder(experiment.output)
    local = output.local
    output = output if local is None else Folder(str(local))
    home = local or Path(HOME).absolute()
    return Folders(output, home, name or folder_name(experiment))


def store_input(part: Experiment) -> str:
    """Return what the key of the store of a part of a sweep is called among the hashes of the sweep's inputs."""
    return ", ".join(filter(None, (STORE_INPUT, part.store_label)))


def recorded_stores(sweep: Folder, experiment: Experiment) -> dict[str, str]:
    """Return the keys of the stores that a sweep reads by `Experiment.store_label`; empty if it has not begun.

    Args:
        sweep: The sweep's folder below `output`.
        experiment: The sweep's experiment.

    Raises:
        DataError: The record cannot be read.
    """
    content = sweep.read(INPUTS_FILE)
    inputs = {} if content is None else decode_record(content, sweep / INPUTS_FILE)
    known = {part.store_label: inputs.get(store_input(part)) for part in experiment.parts()}
    return {label: str(key) for label, key in known.items() if key is not None}


def begun_inputs(experiment: Experiment) -> dict[str, str]:
    """Return what was noted of its inputs when the sweep began that an experiment goes on with; empty if it begins one.

    Returns:
        Hashes by setting, and commits by setting and `COMMIT`.

    Raises:
        DataError: The output, or the record, cannot be read.
    """
    output = folders_of(experiment).output
    known = sweep_of(experiment, begun_sweeps(output, experiment.name))
    sweep = output / "sweeps" / (known or "")
    content = None if known is None else sweep.read(INPUTS_FILE)
    return {} if content is None else {k: str(v) for k, v in decode_record(content, sweep / INPUTS_FILE).items()}


def create_folders(experiment: Experiment, say: Callable[[str], None] = log.info) -> Folders:
    """Find the sweep that an experiment goes on with, or create its folders; write its config there.

    The config of a sweep that goes on with other values of k, coverage or seed holds those of before too.

    Args:
        experiment: The experiment.
        say: Called with a line if a sweep of this name was begun with other settings.

    Raises:
        ConfigError: `output` cannot be written.
        DataError: `output` cannot be read.
    """
    begun = begun_sweeps(folders_of(experiment).output, experiment.name)
    known = sweep_of(experiment, begun)
    difference = told_difference(experiment, begun) if known is None else None
    if difference is not None:
        say(difference)
    folders = folders_of(experiment, known)
    try:
        for folder in (folders.sweep / "trials", folders.tune):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output is '{experiment.output}'; it must be a folder that can be written ({error.strerror or error})"
        ) from None
    keep_config(experiment, folders)
    return folders


def keep_config(experiment: Experiment, folders: Folders) -> None:
    """Write the config of a sweep into its folders, with the values of the grid that it had before.

    Raises:
        DataError: `output` cannot be read.
    """
    here, shared = Folder(str(folders.sweep)), folders.shared
    before = shared.read(CONFIG_FILE)
    whole = experiment if before is None else experiment.with_grid_of(parse_experiment(yaml.safe_load(before)))
    first = shared.read(BEGUN_FILE) or before or experiment.to_yaml().encode()
    for place in (here, shared):
        if place.size(BEGUN_FILE) is None:
            place.write(BEGUN_FILE, [first])
        place.write(CONFIG_FILE, [whole.to_yaml().encode()])


def experiment_of(sweep_folder: str | Path) -> Experiment:
    """Return the experiment that a sweep folder was made for.

    Raises:
        ConfigError: The folder is no sweep folder, its config was changed, or it is not where its config says.
    """
    folder = Path(sweep_folder).expanduser().absolute()
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"'{sweep_folder}' is no sweep folder (it has no {CONFIG_FILE}); give one of <output>/sweeps/<name>-<hash>"
        )
    experiment = load_experiment(folder / CONFIG_FILE)
    if Folder(experiment.output).local is not None:
        # The whole `output` may have been moved: use the place where it is now.
        experiment = experiment.model_copy(update={"output": str(folder.parent.parent)})
    begun = load_experiment(folder / BEGUN_FILE) if (folder / BEGUN_FILE).is_file() else experiment
    changed = differences(experiment, begun)
    if changed:
        raise ConfigError(
            f"'{sweep_folder}': its {CONFIG_FILE} was changed since the sweep was begun: {', '.join(changed)}; to run "
            "other settings, give a file of your own to `dmsae sweep`"
        )
    known = version_of(folder.name, begun) is not None
    expected = folders_of(experiment, folder.name if known else folder_name(begun)).sweep
    if expected.resolve() != folder.resolve():
        raise ConfigError(
            f"'{sweep_folder}' is not where its {CONFIG_FILE} belongs, which is '{expected}' as seen from here: the "
            "file was changed, the folder was renamed, or (output on an object store) this is another working directory"
        )
    return experiment
