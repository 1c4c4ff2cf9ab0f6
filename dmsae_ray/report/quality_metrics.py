"""The numbers of evaluations that tables and figures show, under one name each, and what values they can have."""

import math

from dmsae_ray.evaluation import QUALITY
from dmsae_ray.report.estimates import Scale
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
_AMOUNTS = frozenset(
    (
        "l0",
        "own/tokens",
        "own/targets",
        "own/fvu",
        "own/fvu_first_prefix",
        "own/l0",
        "own/l0_core",
        "own/l0_non_core",
        "own/l0_first_prefix",
        "own/ce_clean",
        "own/ce_sae",
        "own/ce_zero",
        "own/ce_mean",
        "own/kl",
        "own/first_letter_letters",
        "core/l0",
        "absorption/mean_num_split_features",
    )
)
"""Numbers from 0 on: an SAE may leave more variance unexplained than there is."""
_SHARES = frozenset(
    (
        "own/dead_share",
        "own/dense_share",
        "own/live_frequency_median",
        "own/core_dead_share",
        "own/core_dense_share",
        "own/core_live_frequency_median",
        "own/rest_dead_share",
        "own/rest_dense_share",
        "own/rest_live_frequency_median",
        "own/redundant_07",
        "own/redundant_09",
        "own/core_redundant_07",
        "own/core_redundant_09",
        "own/core_rest_redundant_07",
        "own/core_rest_redundant_09",
        "own/first_letter_absorption",
        "own/first_letter_silent",
        "own/first_letter_absorbed_when_silent",
        "own/first_letter_main_f1",
        "own/first_letter_probe_f1",
        "core/frac_alive",
        "absorption/mean_absorption_fraction_score",
        "absorption/mean_full_absorption_score",
        "sparse_probing/sae_top_1_test_accuracy",
        "sparse_probing/sae_top_2_test_accuracy",
        "sparse_probing/sae_top_5_test_accuracy",
        "ravel/disentanglement_score",
        "ravel/cause_score",
        "ravel/isolation_score",
        "autointerp/autointerp_score",
    )
)
"""Numbers from 0 to 1: shares, frequencies, accuracies, F1."""
_COSINES = frozenset(
    (
        "own/nearest_cosine",
        "own/nearest_cosine_median",
        "own/nearest_cosine_p95",
        "own/nearest_cosine_chance",
        "own/core_nearest_cosine",
        "own/core_nearest_cosine_chance",
        "own/core_rest_nearest_cosine",
        "own/core_rest_nearest_cosine_chance",
        "core/cossim",
        "core/average_max_decoder_cosine_sim",
    )
)
"""Numbers from -1 to 1."""
_REAL = frozenset(
    (
        "own/loss_recovered",
        "own/loss_recovered_from_mean",
        "core/ce_loss_score",
        "core/kl_div_score",
        "scr/scr_metric_threshold_10",
        "scr/scr_metric_threshold_20",
        "tpp/tpp_threshold_10_total_metric",
        "tpp/tpp_threshold_20_total_metric",
        "unlearning/unlearning_score",
    )
)
"""Numbers that can be negative, and above 1.

What is recovered is negative where an SAE does more harm than the ablation. SCR and TPP are differences, of which parts
are subtracted; unlearning is 1 less an accuracy over that of the model as it is.
"""


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


def scale_of(name: str) -> Scale:
    """Return what values a number can have, such as 'own/dead_share'; any, if it is not known."""
    if name in _AMOUNTS:
        return "amount"
    if name in _SHARES:
        return "share"
    return "difference" if name in _COSINES else "real"


def limit_of(name: str) -> float:
    """Return what no difference of two values of a number can exceed: 1 of shares, 2 of cosines."""
    return {"share": 1.0, "difference": 2.0}.get(scale_of(name), math.inf)


def says(evaluation: str) -> str:
    """Return what an evaluation measures."""
    return SUITE[evaluation].says if evaluation in SUITE else "measures of our own, on held-out text"
