"""The latents of one SAE folder, with their pages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dmsae_ray.errors import ConfigError
from dmsae_ray.files import Folder
from dmsae_ray.report.latent_source import CycleScores, cycle_of, find_store, opened_sae, output_of, read_scores
from dmsae_ray.report.latent_study import Picked, Wanted, study
from dmsae_ray.report.latent_table import LatentRow, LatentTable, Progress, no_progress
from dmsae_ray.sae import latent_rows

if TYPE_CHECKING:
    from dmsae_ray.sae import MatryoshkaSAE


def sae_latents(
    folder: str,
    latents: Sequence[int] | None = None,
    *,
    core: bool = False,
    most: int = 300,
    store: str | None = None,
    wanted: Wanted | None = None,
    progress: Progress = no_progress,
) -> LatentTable:
    """Return latents of an SAE with their pages.

    Args:
        folder: the SAE's folder, <output>/cycles/<key>/sae; a path or URI.
        latents: their rows in the SAE; None: the core's, or, if it has none, those with the highest scores.
        core: the core's only.
        most: latents at most, where `latents` is None.
        store: the store of activations, if not the one noted with the SAE.
        wanted: how much a page shows.
        progress: told how far it is.

    Raises:
        ConfigError: there is no such latent, or no core.
        DataError: the SAE is missing or damaged.
    """
    place = Folder(folder)
    name = cycle_of(place).uri.partition("?")[0].rpartition("/")[2]
    with opened_sae(place) as (sae, about):
        scores = read_scores(cycle_of(place))
        if core and not sae.n_core:
            raise ConfigError(f"--core is given; the SAE '{folder}' has no core")
        chosen, left_out = _chosen(sae, latents, scores, most)
        cut = latent_rows(sae, chosen)
        picked = Picked(tuple(_row(sae, latent, scores) for latent in chosen), cut)
        d_model = sae.d_model
        core_size = f"{sae.n_core} of them in the core" if sae.n_core else "without a core"
        kind = f"SAE of {sae.n_latents:,} latents, {core_size}, k = {sae.k}"
    found = study(
        [picked], lambda: find_store(output_of(place), about, d_model, store), about, wanted or Wanted(), progress
    )
    trained = f", on block {about['layer']} of {about['model']}" if {"layer", "model"} <= about.keys() else ""
    lines = [f"{kind}{trained}."]
    if scores is not None:
        lines.append("Score: its share of the summed attribution score of the candidate pool.")
    if found.tokens:
        lines.append(
            f"Fires at: share of {found.tokens:,} held-out tokens at which it exceeds its inference threshold."
        )
    return LatentTable(
        title=f"Latents of SAE {name[:12]}" if name else "Latents of an SAE",
        of_sweep=False,
        rows=found.rows,
        text=found.text,
        about=tuple(lines),
        lacks=(*left_out, *found.lacks),
    )


def _chosen(
    sae: "MatryoshkaSAE", latents: Sequence[int] | None, scores: CycleScores | None, most: int
) -> tuple[list[int], list[str]]:
    if latents is not None:
        return list(dict.fromkeys(latents)), []
    if sae.n_core:
        every, what = list(range(sae.n_core)), "of the core"
    elif scores is not None:
        every, what = (
            scores.shares.sort(descending=True, stable=True).indices.tolist(),
            "of the pool, by descending score",
        )
    else:
        every, what = list(range(sae.n_latents)), "of the SAE"
    left_out = [f"the first {most:,} of {len(every):,} latents {what}, are shown"] if len(every) > most else []
    return every[:most], left_out


def _row(sae: "MatryoshkaSAE", latent: int, scores: CycleScores | None) -> LatentRow:
    scored = scores is not None and 0 <= latent < len(scores.shares)
    known = scores is not None and 0 <= latent < len(scores.frequency)
    return LatentRow(
        anchor=str(latent),
        name=str(latent),
        latent=latent,
        part=_part(sae, latent),
        scores=(float(scores.shares[latent]) if scores is not None and scored else None,),
        sampled_frequency=float(scores.frequency[latent]) if scores is not None and known else None,
    )


def _part(sae: "MatryoshkaSAE", latent: int) -> str:
    if latent < sae.n_core:
        return "core"
    return f"group {sum(latent - sae.n_core >= size for size in sae.prefix_sizes)}"
