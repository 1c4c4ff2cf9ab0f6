"""What an experiment reads beside its config: checked before anything starts, and hashed to detect later changes."""

import hashlib
import json
import logging
from pathlib import Path

from dmsae_ray.config import Experiment
from dmsae_ray.corpus import check_corpus
from dmsae_ray.files import file_sha256
from dmsae_ray.harvest import check_documents, check_model
from dmsae_ray.lm import check_files
from dmsae_ray.plan import check_core, check_initial_saes, check_text
from dmsae_ray.results import STORE_INPUT

log = logging.getLogger(__name__)


def check_inputs(experiment: Experiment) -> None:
    """Check that the model, the layer, the corpus and a given SAE or core exist and fit together.

    That the text may be too little is a warning; where it certainly is, an error. The message of an error is one line
    that names the field, its value and what is allowed.

    Raises:
        ConfigError: An input is not there, or does not fit.
        DataError: A file is damaged.
    """
    d_model = check_model(experiment.model, experiment.corpus.context)
    check_files(experiment.model.name)
    check_initial_saes(experiment, d_model)
    check_corpus(experiment.corpus)
    for note in check_text(experiment):
        log.warning("%s", note)
    check_documents(experiment)
    check_core(experiment, d_model)


def hash_inputs(experiment: Experiment, store_key: str) -> dict[str, str]:
    """Return the hashes of what an experiment reads beside its config, by setting.

    Args:
        experiment: The experiment.
        store_key: Key of its store, which is a hash of model and corpus.

    Raises:
        OSError: A file cannot be read.
    """
    inputs = {STORE_INPUT: store_key}
    if experiment.transfer is not None and experiment.transfer.core is not None:
        inputs["transfer.core"] = file_sha256(Path(experiment.transfer.core))
    for field, place in experiment.distill.initial_places.items():
        files = sorted(path for path in Path(place).expanduser().iterdir() if path.is_file())
        hashes = json.dumps([[path.name, file_sha256(path)] for path in files])
        inputs[field] = hashlib.sha256(hashes.encode()).hexdigest()
    return inputs
