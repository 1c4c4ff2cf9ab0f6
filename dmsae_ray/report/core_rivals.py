"""A trial's distilled core, and sets of the same size from the same trial's cycle 0: what a core is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmsae_ray.distill import LineageId, derive_seed, mixed_rows, nearest_frequencies
from dmsae_ray.errors import DmsaeError
from dmsae_ray.files import Folder
from dmsae_ray.report.latent_source import opened_sae, read_scores
from dmsae_ray.report.score_curves import provenance_of
from dmsae_ray.report.trial_cores import TrialCore
from dmsae_ray.sae import LatentRows, MatryoshkaSAE, latent_rows

DISTILLED, IN_FIRST = "distilled", "distilled, in cycle 0"
"""The distilled core in the SAE of the last cycle, and its latents as they are in cycle 0."""
RIVALS = ("best of cycle 0", "most frequent", "random of the pool", "matched frequency")
"""Sets of the distilled core's size, of cycle 0 of the same trial."""
MOST_OF_POOL = 4096
"""Rows that mean nothing are mixed of at most so many of a pool's."""
DRAWS = 5
"""Random sets are drawn so many times, and the mean is shown; activations are compared for the first draw."""


@dataclass(eq=False)
class CoreSets:
    """The sets of one trial.

    Attributes:
        core: the trial's core.
        sets: latents by DISTILLED, IN_FIRST and RIVALS, each as one or several draws; only what could be had.
        ids: lineage of the distilled latents, in their order.
        about: what is noted with the SAE of the last cycle.
        pool: latents of the pool of the last cycle, of which `chance` is made; a part of a large one.
    """

    core: TrialCore
    sets: dict[str, list[LatentRows]]
    ids: tuple[LineageId, ...]
    about: dict[str, Any]
    pool: LatentRows

    def chance(self, draw: int) -> LatentRows:
        """Return as many latents as the distilled core has, with rows that mean nothing (see `distill.mixed_rows`)."""
        star = self.sets[DISTILLED][0]
        encoder, decoder = (mixed_rows(rows, len(star), draw) for rows in (self.pool.encoder, self.pool.decoder))
        return replace(star, encoder=encoder, decoder=decoder)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.sets[DISTILLED][0].encoder.shape[1])


def core_sets(core: TrialCore, output: Folder, lacks: list[str]) -> CoreSets | None:
    """Return the distilled core of a trial and its rivals.

    Args:
        core: the trial's core.
        output: where its cycles are.
        lacks: gets a line for what cannot be had.

    Returns:
        The sets; None where the core is empty or cannot be read.
    """
    ids = tuple(i for i in core.ids if i in core.distilled)
    if not ids:
        lacks.append(f"{core.name}: its distilled core is empty")
        return None
    try:
        with opened_sae(output / "cycles" / core.keys[core.cycle] / "sae") as (sae, about):
            star = latent_rows(sae, [core.place(core.cycle, i) for i in ids])
            size = core.result.last.pool
            some = torch.randperm(size, generator=_generator(core, "chance"))[:MOST_OF_POOL]
            pool = latent_rows(sae, some.tolist())
        first = output / "cycles" / core.keys[0] if 0 in core.keys else None
        scores = None if first is None else read_scores(first, provenance_of(core.result), 0)
        if first is None or scores is None:
            lacks.append(f"{core.name}: cycle 0 has no scores here, so that there are no rivals")
            return CoreSets(core, {DISTILLED: [star]}, ids, about, pool)
        with opened_sae(first / "sae") as (sae, _):
            rivals = _rivals(core, ids, sae, scores.shares, scores.frequency, lacks)
    except DmsaeError as error:
        lacks.append(f"{core.name}: its SAEs cannot be read ({error})")
        return None
    return CoreSets(core, {DISTILLED: [star], **rivals}, ids, about, pool)


def _rivals(
    core: TrialCore,
    ids: Sequence[LineageId],
    sae: MatryoshkaSAE,
    scores: Tensor,
    frequency: Tensor,
    lacks: list[str],
) -> dict[str, list[LatentRows]]:
    n, pool = len(ids), len(scores)
    born = [i.latent for i in ids if i.cycle == 0]
    generator = _generator(core, "rediscovery")
    found = {IN_FIRST: [latent_rows(sae, born)]} if len(born) == n else {}
    if pool < n:
        lacks.append(
            f"{core.name}: the pool of cycle 0 has {pool} latents, its distilled core {n}: there are no rivals"
        )
        return found
    found |= {
        RIVALS[0]: [latent_rows(sae, scores.argsort(descending=True, stable=True)[:n].tolist())],
        RIVALS[1]: [latent_rows(sae, frequency[:pool].argsort(descending=True, stable=True)[:n].tolist())],
        RIVALS[2]: [latent_rows(sae, torch.randperm(pool, generator=generator)[:n].tolist()) for _ in range(DRAWS)],
    }
    rest = torch.tensor(sorted(set(range(pool)) - set(born)), dtype=torch.int64)
    if len(born) == n and len(rest) >= n:  # of latents that were born later, cycle 0 knows no frequency
        order = rest[torch.randperm(len(rest), generator=generator)]
        near = nearest_frequencies(frequency[born], frequency[order])
        found[RIVALS[3]] = [latent_rows(sae, order[near].tolist())]
    else:
        why = f"the pool has {len(rest)} others for {n}" if len(born) == n else "some of its core came after cycle 0"
        lacks.append(f"{core.name}: no set of {RIVALS[3]}: {why}")
    return found


def _generator(core: TrialCore, what: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(core.result.trial.seed, what))
