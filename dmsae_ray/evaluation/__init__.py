"""How good an SAE is: variance explained, L0 in its two parts, and how much of the model's loss is recovered.

Input: a `MatryoshkaSAE` that takes raw activations, with batches of raw activations (`evaluate`), or with a tapped
language model and tokens (`loss_recovered`). Output: the figures, as `Metrics` or `LossRecovered`. The room trains
nothing and reads no files.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.evaluation.metrics import Metrics as Metrics
    from dmsae_ray.evaluation.metrics import evaluate as evaluate
    from dmsae_ray.evaluation.spliced_loss import LossRecovered as LossRecovered
    from dmsae_ray.evaluation.spliced_loss import loss_recovered as loss_recovered

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "metrics": (
            "Metrics",
            "evaluate",
        ),
        "spliced_loss": (
            "LossRecovered",
            "loss_recovered",
        ),
    },
)
