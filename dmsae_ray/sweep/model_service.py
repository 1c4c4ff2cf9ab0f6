"""The language model of a sweep: one actor serves all trials, so that Train workers never hold the model."""

from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from dmsae_ray.config import Experiment, parse_experiment
from dmsae_ray.errors import TransientError
from dmsae_ray.evaluation import LossRecovered, loss_recovered
from dmsae_ray.files import be_patient
from dmsae_ray.harvest import open_tap
from dmsae_ray.sae import MatryoshkaSAE
from dmsae_ray.store import open_store

RETRIES = 5
"""How often a call is repeated when the actor dies during it."""


class ModelServiceLost(TransientError):
    """The service died again and again; perhaps machines were lost, more likely it lacks memory."""


def await_metrics(question: "ray.ObjectRef[dict[str, float]]") -> dict[str, float]:
    """Wait for the metrics that the service measures.

    Raises:
        ModelServiceLost: The service died each time it was called.
    """
    try:
        return ray.get(question)
    except RayActorError:
        raise ModelServiceLost(
            f"the language model's actor died {RETRIES + 1} times while it measured the loss recovered (killed, out of "
            "memory, or a GPU error; Ray's log says which): lower resources.model_batch_tokens, or give it more memory "
            "or a whole GPU (resources.cpus/gpus_per_evaluation)"
        ) from None


class LanguageModelService:
    """Measures what needs the language model: how much of the next-token loss an SAE keeps.

    The model is loaded at the first call, on the actor's device.
    """

    def __init__(self, experiment: dict[str, Any], stores: str, key: str) -> None:
        be_patient()
        self._experiment = parse_experiment(experiment)
        self._stores, self._key = stores, key
        self._tap: Any = None
        self._found: LossRecovered | None = None

    def ready(self) -> None:
        """Do nothing: the answer says that the actor has a place on a node."""

    def loss_recovered(self, sae: MatryoshkaSAE) -> dict[str, float]:
        """Return cross-entropies on the evaluation tokens, in nats per token, and the share of the loss recovered."""
        if self._tap is None:
            self._tap = open_tap(self._experiment.model, full=True)
        store = open_store(self._stores, self._experiment, self._key)
        batch = max(1, self._experiment.resources.model_batch_tokens // self._experiment.corpus.context)
        # Special tokens that are kept out of training keep their activations: no reconstruction, no ablation.
        filters, bos = self._experiment.activations, self._tap.bos_id
        spared = [i for i in self._tap.special_ids if (filters.drop_bos if i == bos else filters.drop_special)]
        keep = (lambda tokens: torch.isin(tokens, torch.tensor(spared))) if spared else None
        found = self._found = loss_recovered(
            self._tap,
            sae.to(self._tap.device),
            store.eval_tokens(),
            batch_contexts=batch,
            keep_mask=keep,
            loss_mask=store.eval_loss_mask(),
            like=self._found,
        )
        return {
            "loss_recovered": found.recovered,
            "ce_clean": found.clean,
            "ce_sae": found.spliced,
            "ce_zero": found.zero,
        }


def start_model_service(experiment: Experiment, stores: str, key: str) -> ActorHandle[Any]:
    """Start the service on the store `key`.

    If the actor is lost (for instance with a spot node), Ray starts it again and repeats the call. Wait for its
    metrics with `await_metrics`.
    """
    cpus, gpus = experiment.resources.evaluation
    actor: Any = ray.remote(LanguageModelService).options(
        num_cpus=cpus,
        num_gpus=gpus,
        max_restarts=-1,
        max_task_retries=RETRIES,
    )
    handle: ActorHandle[Any] = actor.remote(experiment.model_dump(mode="json"), stores, key)
    return handle
