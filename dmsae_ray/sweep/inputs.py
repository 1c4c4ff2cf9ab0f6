"""What an experiment reads beside its config, checked before anything starts."""

import logging

from dmsae_ray.config import Experiment
from dmsae_ray.corpus import check_corpus
from dmsae_ray.harvest import check_documents, check_model
from dmsae_ray.lm import check_files
from dmsae_ray.plan import NOWHERE, Here, check_core, check_initial_saes, check_text

log = logging.getLogger(__name__)


def check_inputs(experiment: Experiment) -> int:
    """Check that the model, the layer and the corpus exist and fit together; return the width of the residual stream.

    That the text may be too little is a warning; where it certainly is, an error. The message of an error is one line
    that names the field, its value and what is allowed.

    Raises:
        ConfigError: An input is not there, or does not fit.
        DataError: A file is damaged.
    """
    d_model = check_model(experiment.model, experiment.corpus.context)
    check_files(experiment.model.name)
    check_corpus(experiment.corpus)
    for note in check_text(experiment):
        log.warning("%s", note)
    check_documents(experiment)
    return d_model


def check_saes_and_core(experiment: Experiment, d_model: int, here: Here = NOWHERE) -> None:
    """Check that the SAEs and the core that an experiment is given exist and fit.

    Args:
        experiment: The experiment.
        d_model: Width of the residual stream.
        here: Where they are on this machine, see `given.given_here`. What is on the Hub, and not here, is passed over.

    Raises:
        ConfigError: One is not there, or does not fit.
        DataError: A file is damaged.
    """
    for at in map(experiment.at, experiment.points):
        check_initial_saes(at, d_model, here)
        check_core(at, d_model, here)
