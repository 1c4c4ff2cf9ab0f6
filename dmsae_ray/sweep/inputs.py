"""What an experiment reads beside its config, checked before anything starts."""

import logging

from dmsae_ray.config import Experiment
from dmsae_ray.corpus import check_corpus
from dmsae_ray.harvest import check_documents, check_model
from dmsae_ray.lm import check_files
from dmsae_ray.plan import NOWHERE, Here, check_core, check_initial_saes, check_text

log = logging.getLogger(__name__)


def check_inputs(experiment: Experiment, here: Here = NOWHERE) -> None:
    """Check that the model, the layer, the corpus and a given SAE or core exist and fit together.

    That the text may be too little is a warning; where it certainly is, an error. The message of an error is one line
    that names the field, its value and what is allowed.

    Args:
        experiment: The experiment.
        here: Where the given SAEs and the core are on this machine, see `given.given_here`. What is on the Hub, and not
            here, is not looked at.

    Raises:
        ConfigError: An input is not there, or does not fit.
        DataError: A file is damaged.
    """
    d_model = check_model(experiment.model, experiment.corpus.context)
    check_files(experiment.model.name)
    check_initial_saes(experiment, d_model, here)
    check_corpus(experiment.corpus)
    for note in check_text(experiment):
        log.warning("%s", note)
    check_documents(experiment)
    check_core(experiment, d_model, here)
