"""Where a run keeps what: stores and cycles are shared by all sweeps of one `output`, the rest is a sweep's own."""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from dmsae_ray.config import Experiment, load_experiment
from dmsae_ray.errors import ConfigError

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Folders:
    """The folders of one experiment, all below its `output`."""

    output: Path
    sweep: Path

    @property
    def stores(self) -> Path:
        """Tokens and activations, by store key."""
        return self.output / "stores"

    @property
    def cycles(self) -> Path:
        """Finished SAE trainings, by cycle key."""
        return self.output / "cycles"

    @property
    def train(self) -> Path:
        """Ray Train's checkpoints, one folder a trial."""
        return self.sweep / "train"

    @property
    def tune(self) -> Path:
        """Ray Tune's own files."""
        return self.sweep / "tune"

    def trial(self, trial_id: str) -> Path:
        """What one trial found: summary.json and its distilled core."""
        return self.sweep / "trials" / trial_id

    def summary(self, trial_id: str) -> Path:
        """The file that says that a trial is finished, and with what."""
        return self.trial(trial_id) / "summary.json"


def folders_of(experiment: Experiment) -> Folders:
    """The folders of an experiment; nothing is created."""
    output = Path(experiment.output).expanduser().absolute()
    return Folders(output, output / "sweeps" / f"{experiment.name}-{experiment.digest()[:8]}")


def create_folders(experiment: Experiment) -> Folders:
    """Create the folders of an experiment and write its resolved config into the sweep's.

    Raises:
        ConfigError: `output` cannot be written.
    """
    folders = folders_of(experiment)
    try:
        for folder in (folders.stores, folders.cycles, folders.sweep / "trials", folders.train, folders.tune):
            folder.mkdir(parents=True, exist_ok=True)
        write_text(folders.sweep / CONFIG_FILE, experiment.to_yaml())
    except OSError as error:
        raise ConfigError(
            f"output is '{experiment.output}'; it must be a folder that can be written ({error.strerror or error})"
        ) from None
    return folders


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    part.write_text(text)
    os.replace(part, path)


def experiment_of(sweep_folder: str | Path) -> Experiment:
    """The experiment that a sweep folder was made for.

    Raises:
        ConfigError: the folder is none of a sweep.
    """
    config = Path(sweep_folder).expanduser() / CONFIG_FILE
    if not config.is_file():
        raise ConfigError(
            f"'{sweep_folder}' is no sweep folder (it has no {CONFIG_FILE}); give one of <output>/sweeps/<name>-<hash>"
        )
    experiment = load_experiment(config)
    # The folder may have been moved, or been named relative to another working directory.
    return experiment.model_copy(update={"output": str(config.absolute().parent.parent.parent)})
