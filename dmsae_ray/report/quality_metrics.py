"""The numbers of evaluations that tables and figures show, under one name each."""

from dmsae_ray.evaluation import QUALITY
from dmsae_ray.saebench import SUITE, Shown

OWN = "own"
_OWN = (
    "loss_recovered",
    "loss_recovered_from_mean",
    "kl",
    "fvu",
    "dead_share",
    "dense_share",
    "nearest_cosine",
    "redundant_07",
    "first_letter_absorption",
)
"""Of our own measures, those that tables and figures show; quality.json has all."""


def shown_metrics(evaluation: str) -> tuple[Shown, ...]:
    """Return what is shown of an evaluation, in order."""
    if evaluation == OWN:
        names = {name.name: name for name in QUALITY}
        return tuple(Shown(n, names[n].label, names[n].better) for n in _OWN)
    return SUITE[evaluation].shown if evaluation in SUITE else ()


def shown_metric(name: str) -> Shown:
    """Return what is shown of a number, such as 'core/ce_loss_score'; one that is not shown has its own name."""
    evaluation, _, metric = name.partition("/")
    return next((s for s in shown_metrics(evaluation) if s.name == metric), Shown(metric, metric, "neither"))


def says(evaluation: str) -> str:
    """Return what an evaluation measures."""
    return SUITE[evaluation].says if evaluation in SUITE else "measures of our own, on held-out text"
