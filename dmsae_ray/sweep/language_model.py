"""The language model of a sweep, in an actor that measures what needs it."""

from typing import TYPE_CHECKING, Any

from dmsae_ray.config import parse_experiment
from dmsae_ray.files import be_patient

if TYPE_CHECKING:
    from torch import Tensor

    from dmsae_ray.evaluation import LossRecovered
    from dmsae_ray.sae import MatryoshkaSAE


class LanguageModel:
    """Measures how much of the next-token loss an SAE keeps.

    The model is loaded at the first call, on the actor's device.
    """

    def __init__(self, experiment: dict[str, Any], stores: str, key: str) -> None:
        # Here, since who starts the actor needs neither torch nor transformers.
        from dmsae_ray.evaluation import loss_recovered
        from dmsae_ray.harvest import open_tap
        from dmsae_ray.store import open_store

        be_patient()
        self._open_tap, self._open_store, self._measure = open_tap, open_store, loss_recovered
        self._experiment = parse_experiment(experiment)
        self._stores, self._key = stores, key
        self._tap: Any = None
        self._found: LossRecovered | None = None
        self._spared: Tensor | None = None
        self._mean: Tensor | None = None

    def ready(self) -> None:
        """Do nothing: the answer says that the actor has a place on a node."""

    def loss_recovered(self, sae: "MatryoshkaSAE") -> dict[str, float]:
        """Return cross-entropies on the evaluation tokens, in nats per token, and the share of the loss recovered.

        Tokens that the filters kept out of training keep their activations: no reconstruction, no ablation. The store
        knows which they are, high norms included.
        """
        if self._tap is None:
            self._tap = self._open_tap(self._experiment.model, full=True)
        store = self._open_store(self._stores, self._experiment, self._key)
        batch = max(1, self._experiment.resources.model_batch_tokens // self._experiment.corpus.context)
        if self._spared is None:
            self._spared, self._mean = ~store.eval_kept(), store.eval_mean().float()
        found = self._found = self._measure(
            self._tap,
            sae.to(self._tap.device),
            store.eval_tokens(),
            batch_contexts=batch,
            keep_mask=self._spared,
            mean=self._mean,
            loss_mask=store.eval_loss_mask(),
            like=self._found,
        )
        assert found.mean is not None and found.recovered_from_mean is not None
        return {
            "loss_recovered": found.recovered,
            "loss_recovered_from_mean": found.recovered_from_mean,
            "ce_clean": found.clean,
            "ce_sae": found.spliced,
            "ce_zero": found.zero,
            "ce_mean": found.mean,
        }
