"""The sets of latents that the benchmark compares: cores, and rivals of the same size."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dmsae_ray.distill import DistillationResult, TrainedCycle
from dmsae_ray.groundtruth.recovery import Latents, Truth

ABLATION, SPLICED, SAMPLED = "ablation", "ablation, spliced", "ablation, sampled labels"
"""Exact ablation: at x with the loss expected over labels; in the reconstruction; with one sampled label a token."""
RIVAL_SCORES = ("mean_square", ABLATION)
"""Scores by which the best of a whole dictionary are taken as rivals of the last core, beside the run's own."""
OWN = "the run's score"
"""The score that selected the cores."""
LOWEST = "lowest over domains"
"""The lowest of the run's scores by each loss."""
QUANTILES = (0.9, 0.99, 0.999)
"""Quantiles that are compared as scores."""
COMPARED = (*(f"quantile {q:g}" for q in QUANTILES), ABLATION, SPLICED, SAMPLED, OWN, LOWEST)
"""Names of the scores that are compared, beside those of distill.SCORES; no score of a user's own may have one."""
REDISCOVERED = ("distilled", "best of C_0", "most frequent", "random of the pool")
"""Sets that are looked for in an SAE of another seed."""


def latent_sets(
    run: DistillationResult,
    first: TrainedCycle,
    last: TrainedCycle,
    scores: Mapping[str, Tensor],
    truth: Truth,
    *,
    groups: int,
    draws: int,
    seed: int,
) -> dict[str, list[Latents]]:
    """Return the sets of latents that are compared, each as one or several draws.

    Those of the distilled core's size come first, then those of the last core's size.

    Args:
        run: a run of cycles that did not collapse.
        first: its cycle 0.
        last: its last cycle.
        scores: scores [m] of the latents of cycle 0, by name.
        truth: the known features.
        groups: groups of the candidate pool.
        draws: random sets are drawn so many times.
        seed: seed of the draws.
    """
    pool = first.sae.pool_size(groups)
    star, c_0, c_last = run.distilled, run.cores[0], run.cores[-1]
    own, frequency = scores[OWN], first.frequency
    in_last = [_place(run, len(run.cores) - 1, n) for n in range(len(c_last))]
    star_places = [in_last[c_last.lineage.index(i)] for i in star.lineage]
    k, n = len(star), len(c_last)
    generator = torch.Generator().manual_seed(seed)

    def of_first(latents: Tensor) -> Latents:
        return latents_of(first, latents)

    def drawn(among: Tensor) -> list[Latents]:
        return [of_first(among[torch.randperm(len(among), generator=generator)[:k]]) for _ in range(draws)]

    def best(score: Tensor, size: int) -> list[Latents]:
        return [of_first(score.argsort(descending=True, stable=True)[:size])]

    first_rows = torch.tensor([i.latent for i in c_0.lineage], dtype=torch.int64)
    sets = {
        "distilled": [latents_of(last, torch.tensor(star_places, dtype=torch.int64))],
        "distilled, decoder of cycle 0": [of_first(torch.tensor([i.latent for i in star.lineage], dtype=torch.int64))],
        "best of C_0": [of_first(first_rows[:k])],
        "random of C_0": drawn(first_rows),
        "most frequent": best(frequency[:pool], k),
        "random of the pool": drawn(torch.arange(pool)),
        "ceiling of the pool": best(truth.of_latents(first.sae.W_dec[:pool]), k),
    }
    if LOWEST in scores:
        sets["lowest over domains"] = best(scores[LOWEST][:pool], k)
    sets["last core"] = [latents_of(last, torch.tensor(in_last, dtype=torch.int64))]
    # A rival that is the same set as another has one name.
    others = [(name, scores[name]) for name in RIVAL_SCORES if not torch.equal(scores[name], own)]
    for name, score in ((OWN, own), *others):
        if n <= pool < first.sae.n_latents:  # else there are not as many, or it is the whole dictionary
            sets[f"best of prefix 0 by {name}"] = best(score[:pool], n)
        sets[f"best of the dictionary by {name}"] = best(score, n)
    return sets


def _place(run: DistillationResult, cycle: int, row: int) -> int:
    """Return which latent of the SAE of `cycle` row `row` of its core C_cycle is."""
    identity = run.cores[cycle].lineage[row]
    if cycle > 0 and identity in run.cores[cycle - 1].lineage:
        return run.cores[cycle - 1].lineage.index(identity)
    return identity.latent


def latents_of(trained: TrainedCycle, latents: Tensor) -> Latents:
    """Return some latents of a trained SAE by their numbers, int64 [n]."""
    sae = trained.sae
    frequency = float(trained.frequency[latents].mean()) if len(latents) else math.nan
    return Latents(sae.W_enc[latents].detach(), sae.W_dec[latents].detach(), frequency)
