"""The service that measures with the language model: one for all trials, so that Train workers never hold the model."""

import asyncio
from typing import Any, ClassVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from dmsae_ray.config import ON_HEAD, Experiment
from dmsae_ray.errors import TransientError
from dmsae_ray.sweep.language_model import LanguageModel

RETRIES = 5
"""How often a call is repeated when the language model's actor dies during it."""
IDLE_SECONDS = 300.0
"""How long the language model keeps its place when nobody asks it: a trial that asks then waits until it is loaded."""


class ModelServiceLost(TransientError):
    """The language model died again and again; perhaps machines were lost, more likely it lacks memory."""


class LanguageModelService:
    """Starts the language model when it is asked, again when it was lost, and lets it go when nobody asks.

    It is on the head node and takes no resources; the language model has a place of its own.

    Args:
        experiment: The experiment, as `Experiment.model_dump` gives it.
        needs: CPUs and GPUs of the language model.
        stores: Folder of stores, as path or URI.
        key: Key of the store.
        idle_seconds: How long the language model keeps its place when nobody asks.
    """

    MODEL: ClassVar[type] = LanguageModel

    def __init__(
        self, experiment: dict[str, Any], needs: tuple[float, float], stores: str, key: str, idle_seconds: float
    ) -> None:
        self._given, (self._cpus, self._gpus), self._idle_seconds = (experiment, stores, key), needs, idle_seconds
        self._model: ActorHandle[Any] | None = None
        self._placing = asyncio.Lock()
        self._waits = False
        self._asking, self._asked = 0, 0

    async def waits(self) -> bool:
        """Return whether the language model waits for a place on a node."""
        return self._waits

    async def prepare(self) -> None:
        """Start the language model before it is asked."""
        await self._placed()
        self._await_idleness()

    async def loss_recovered(self, sae: "list[ray.ObjectRef[Any]]") -> dict[str, float]:
        """Return what `LanguageModel.loss_recovered` measures.

        Args:
            sae: The SAE's reference, in a list: so it is not fetched to this process.

        Raises:
            ModelServiceLost: The language model's actor died each time.
        """
        self._asking, self._asked = self._asking + 1, self._asked + 1
        try:
            for _ in range(RETRIES + 1):
                model = await self._placed()
                try:
                    found: dict[str, float] = await model.loss_recovered.remote(sae[0])
                except RayActorError:
                    if self._model is model:
                        self._model = None
                else:
                    return found
            raise _lost()
        finally:
            self._asking -= 1
            self._await_idleness()

    async def _placed(self) -> ActorHandle[Any]:
        async with self._placing:
            if self._model is None:
                actor: Any = ray.remote(self.MODEL).options(num_cpus=self._cpus, num_gpus=self._gpus)
                model: ActorHandle[Any] = actor.remote(*self._given)
                self._waits = True
                try:
                    await model.ready.remote()
                except RayActorError:
                    pass  # the call that follows says it
                finally:
                    self._waits = False
                self._model = model
            return self._model

    def _await_idleness(self) -> None:
        asyncio.get_running_loop().call_later(self._idle_seconds, self._let_go, self._asked)

    def _let_go(self, asked: int) -> None:
        if self._model is not None and not self._asking and asked == self._asked:
            ray.kill(self._model)
            self._model = None


def start_model_service(
    experiment: Experiment, stores: str, key: str, idle_seconds: float = IDLE_SECONDS
) -> ActorHandle[Any]:
    """Start the service on the store `key`; see `LanguageModelService`.

    Ray starts it again when it is lost, and repeats the call. Wait for its metrics with `await_metrics`.
    """
    actor: Any = ray.remote(LanguageModelService).options(
        num_cpus=0, resources=ON_HEAD, max_restarts=-1, max_task_retries=RETRIES
    )
    handle: ActorHandle[Any] = actor.remote(
        experiment.model_dump(mode="json"), experiment.resources.evaluation, stores, key, idle_seconds
    )
    return handle


def await_metrics(question: "ray.ObjectRef[dict[str, float]]") -> dict[str, float]:
    """Wait for the metrics that the service measures.

    Raises:
        ModelServiceLost: The language model died each time it was called.
    """
    try:
        return ray.get(question)
    except (RayActorError, ModelServiceLost):
        raise _lost() from None


def _lost() -> ModelServiceLost:
    return ModelServiceLost(
        f"the language model's actor died {RETRIES + 1} times while it measured the loss recovered (killed, out of "
        "memory, or a GPU error; Ray's log says which): lower resources.model_batch_tokens, or give it more memory "
        "or a whole GPU (resources.cpus/gpus_per_evaluation)"
    )
