"""How good an SAE is: variance explained, L0 in its two parts, loss recovered; what single latents do, and where.

Input: a `MatryoshkaSAE` that takes raw activations, with batches of raw activations (`evaluate`), or with a tapped
language model and tokens (`loss_recovered`), or with a model whose activations can be replaced (`ablation`); or
activations of single latents (`FiringCollector`). Output: the figures, as `Metrics`, `LossRecovered`, `LatentFiring` or
one number a latent. The room trains nothing and reads no files.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.evaluation.co_activation import CoActivation as CoActivation
    from dmsae_ray.evaluation.latent_ablation import SplicedModel as SplicedModel
    from dmsae_ray.evaluation.latent_ablation import Units as Units
    from dmsae_ray.evaluation.latent_ablation import ablation as ablation
    from dmsae_ray.evaluation.latent_firing import FiringCollector as FiringCollector
    from dmsae_ray.evaluation.latent_firing import LatentFiring as LatentFiring
    from dmsae_ray.evaluation.latent_firing import Quantiles as Quantiles
    from dmsae_ray.evaluation.latent_firing import Snippet as Snippet
    from dmsae_ray.evaluation.metrics import Metrics as Metrics
    from dmsae_ray.evaluation.metrics import evaluate as evaluate
    from dmsae_ray.evaluation.spliced_contexts import SplicedContexts as SplicedContexts
    from dmsae_ray.evaluation.spliced_loss import LossRecovered as LossRecovered
    from dmsae_ray.evaluation.spliced_loss import loss_recovered as loss_recovered

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "co_activation": ("CoActivation",),
        "latent_ablation": (
            "SplicedModel",
            "Units",
            "ablation",
        ),
        "latent_firing": (
            "FiringCollector",
            "LatentFiring",
            "Quantiles",
            "Snippet",
        ),
        "metrics": (
            "Metrics",
            "evaluate",
        ),
        "spliced_contexts": ("SplicedContexts",),
        "spliced_loss": (
            "LossRecovered",
            "loss_recovered",
        ),
    },
)
