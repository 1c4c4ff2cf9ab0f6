"""How good an SAE is: variance explained, L0 in its two parts, and how much of the model's loss it keeps."""

from dmsae_ray.evaluation.loss_recovered import LossRecovered, loss_recovered
from dmsae_ray.evaluation.metrics import Metrics, evaluate

__all__ = ["LossRecovered", "Metrics", "evaluate", "loss_recovered"]
