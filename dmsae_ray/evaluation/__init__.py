"""How good an SAE is: variance explained, L0 in its two parts, and how much of the model's loss it keeps."""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.evaluation.loss_recovered import LossRecovered as LossRecovered
    from dmsae_ray.evaluation.loss_recovered import loss_recovered as loss_recovered
    from dmsae_ray.evaluation.metrics import Metrics as Metrics
    from dmsae_ray.evaluation.metrics import evaluate as evaluate

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "loss_recovered": (
            "LossRecovered",
            "loss_recovered",
        ),
        "metrics": (
            "Metrics",
            "evaluate",
        ),
    },
)
