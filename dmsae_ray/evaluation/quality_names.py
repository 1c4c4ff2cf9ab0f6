"""The numbers that measure the quality of an SAE: what each is called, what it means, which direction is better."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class QualityName:
    """One number.

    Attributes:
        name: what it is called in results and in MLflow.
        label: what it is called in tables and figures.
        meaning: one line.
        better: which direction is better; neither where it depends on what is wanted.
    """

    name: str
    label: str
    meaning: str
    better: Better


_COSINE = "largest cosine of a decoder row with"
QUALITY = (
    QualityName("tokens", "tokens", "held-out tokens of all numbers but losses", "neither"),
    QualityName("targets", "targets", "held-out tokens that are predicted, for the losses", "neither"),
    QualityName("fvu", "FVU", "fraction of variance unexplained", "lower"),
    QualityName("fvu_first_prefix", "FVU, first prefix", "FVU of the core and the first group alone", "lower"),
    QualityName("l0", "L0", "active latents a token", "neither"),
    QualityName("l0_core", "L0, core", "active core latents a token", "neither"),
    QualityName("l0_non_core", "L0, rest", "active other latents a token", "neither"),
    QualityName(
        "l0_first_prefix", "L0, first prefix", "active latents a token of the core and the first group", "neither"
    ),
    QualityName("ce_clean", "loss", "next-token loss of the model as it is, nats a token", "neither"),
    QualityName("ce_sae", "loss, spliced", "next-token loss through the SAE, nats a token", "lower"),
    QualityName("ce_zero", "loss, zero", "next-token loss with 0 for the activations, nats a token", "neither"),
    QualityName("ce_mean", "loss, mean", "next-token loss with the mean for the activations, nats a token", "neither"),
    QualityName("loss_recovered", "loss rec.", "share of the loss of zero ablation that the SAE recovers", "higher"),
    QualityName(
        "loss_recovered_from_mean",
        "loss rec., mean",
        "share of the loss of mean ablation that the SAE recovers",
        "higher",
    ),
    QualityName("kl", "KL", "KL(model as it is || through the SAE) of the next token, nats a token", "lower"),
    QualityName("dead_share", "dead", "share of the latents that never fire", "lower"),
    QualityName("dense_share", "dense", "share of the latents that fire at more than 10% of the tokens", "neither"),
    QualityName("live_frequency_median", "frequency", "median frequency of the latents that fire", "neither"),
    QualityName("core_dead_share", "core dead", "share of the core that never fires", "lower"),
    QualityName(
        "core_dense_share", "core dense", "share of the core that fires at more than 10% of the tokens", "neither"
    ),
    QualityName(
        "core_live_frequency_median", "core frequency", "median frequency of the core latents that fire", "neither"
    ),
    QualityName("rest_dead_share", "rest dead", "share of the latents outside the core that never fire", "lower"),
    QualityName(
        "rest_dense_share", "rest dense", "share of the rest that fires at more than 10% of the tokens", "neither"
    ),
    QualityName("rest_live_frequency_median", "rest frequency", "median frequency of the rest that fires", "neither"),
    QualityName("nearest_cosine", "nearest cosine", f"mean {_COSINE} another one", "lower"),
    QualityName("nearest_cosine_median", "nearest cosine, median", f"median {_COSINE} another one", "lower"),
    QualityName("nearest_cosine_p95", "nearest cosine, 95%", f"95th percentile of the {_COSINE} another one", "lower"),
    QualityName(
        "nearest_cosine_chance", "nearest cosine, chance", "nearest cosine of as many random directions", "neither"
    ),
    QualityName(
        "redundant_07", "cosine ≥ 0.7", "share of the decoder rows with another at cosine 0.7 or more", "lower"
    ),
    QualityName(
        "redundant_09", "cosine ≥ 0.9", "share of the decoder rows with another at cosine 0.9 or more", "lower"
    ),
    QualityName("core_nearest_cosine", "within core", f"mean {_COSINE} another one, both of the core", "lower"),
    QualityName(
        "core_nearest_cosine_chance", "within core, chance", "the same of as many random directions", "neither"
    ),
    QualityName(
        "core_redundant_07", "core ≥ 0.7", "share of the core with another of the core at 0.7 or more", "lower"
    ),
    QualityName(
        "core_redundant_09", "core ≥ 0.9", "share of the core with another of the core at 0.9 or more", "lower"
    ),
    QualityName("core_rest_nearest_cosine", "core to rest", f"mean {_COSINE} one outside, over the core", "lower"),
    QualityName(
        "core_rest_nearest_cosine_chance", "core to rest, chance", "the same of as many random directions", "neither"
    ),
    QualityName(
        "core_rest_redundant_07", "core to rest ≥ 0.7", "share of the core with one outside at 0.7 or more", "lower"
    ),
    QualityName(
        "core_rest_redundant_09", "core to rest ≥ 0.9", "share of the core with one outside at 0.9 or more", "lower"
    ),
    QualityName("first_letter_letters", "letters", "first letters that could be judged", "neither"),
    QualityName(
        "first_letter_absorption",
        "absorption",
        "share of words whose first letter another latent has absorbed",
        "lower",
    ),
    QualityName(
        "first_letter_silent", "letter silent", "share of words at which the latents of the letter do not fire", "lower"
    ),
    QualityName(
        "first_letter_absorbed_when_silent",
        "absorbed if silent",
        "share of the silent cases that are absorbed",
        "lower",
    ),
    QualityName("first_letter_main_f1", "letter F1", "how well the latents of a letter tell it (F1)", "higher"),
    QualityName("first_letter_probe_f1", "probe F1", "how well the probes tell the letters that are judged", "neither"),
)
"""All numbers that `sweep.measure_quality` returns by name, in the order of tables; None where there is none."""
