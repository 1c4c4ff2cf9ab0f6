"""The latents of the cores of a sweep: lineage, score by cycle, and the nearest latents in cores of other seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.special import betaincinv

from dmsae_ray.distill import Core, Lineage, LineageId, cosines, empty_core, load_core, same_rows
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import Folder
from dmsae_ray.plan import CycleSetting
from dmsae_ray.report.latent_source import find_store, opened_sae, read_scores
from dmsae_ray.report.latent_study import Picked, Studied, Wanted, study
from dmsae_ray.report.latent_table import LatentRow, LatentTable, Nearest, Progress, no_progress
from dmsae_ray.report.trial_cores import TrialCore, output_of_sweep, trial_cores
from dmsae_ray.results import CORE_FILE, load_results
from dmsae_ray.sae import LatentRows, latent_rows

if TYPE_CHECKING:
    from torch import Tensor

MOST_LISTED = 5000
"""Latents in a table; the pages of most of them are left out anyway."""


def sweep_latents(
    sweep_dir: str | Path,
    *,
    trial: str | None = None,
    cycle: int | None = None,
    most: int = 300,
    store: str | None = None,
    wanted: Wanted | None = None,
    progress: Progress = no_progress,
) -> LatentTable:
    """Return the latents of the cores of a sweep's finished trials, with pages for some of them.

    Args:
        sweep_dir: the sweep's folder.
        trial: only this trial.
        cycle: the cores selected in this cycle; None: in each trial's last one, C_L.
        most: latents that get a page: of each trial as many, C* first, by descending score.
        store: the store of activations, if not the one noted with the SAEs.
        wanted: how much a page shows.
        progress: told how far it is.

    Raises:
        ConfigError: there is no such trial or cycle.
        DataError: no trial of cycles is finished, or a summary cannot be read.
    """
    results = [r for r in load_results(sweep_dir) if isinstance(r.setting, CycleSetting)]
    if not results:
        raise DataError(f"'{sweep_dir}' has no finished trial that selected cores")
    if trial is not None and trial not in {r.trial_id for r in results}:
        raise ConfigError(f"--trial is '{trial}'; finished are {', '.join(r.trial_id for r in results)}")
    settings = {r.setting for r in results if trial in (None, r.trial_id)}
    lacks: list[str] = []
    cores = trial_cores([r for r in results if r.setting in settings], cycle, lacks)
    output = output_of_sweep(Path(sweep_dir))
    opened = _opened(output, cores, progress, lacks)
    listed: dict[str, list[LatentRow]] = {}
    for core in cores:
        if trial in (None, core.name):
            same = [o for o in cores if o.result.setting == core.result.setting and o is not core]
            listed[core.name] = _rows(core, opened, [(o.name, *opened.encoder(o)) for o in same])
    picked = _picked(listed, opened, most)
    every = list(chain.from_iterable(listed.values()))
    found = Studied((), None, 0, ())
    if picked:
        about = opened.about[picked[0].rows[0].trial]
        width, activations = picked[0].latents.encoder.shape[1], about.get("store")
        others = [one for one in picked if opened.about[one.rows[0].trial].get("store") != activations]
        if others:  # a page shows the text of one store
            picked = [one for one in picked if one not in others]
            names = ", ".join(one.rows[0].trial for one in others[:3]) + (", …" if len(others) > 3 else "")
            lacks.append(f"trials on other activations have no pages here; --trial gives one its own: {names}")
        found = study(picked, lambda: find_store(output, about, width, store), about, wanted or Wanted(), progress)
    lacks += found.lacks
    if len(found.rows) < len(every):
        how = "of each trial as many, C* first, by score"
        lacks.append(f"{len(found.rows):,} of {len(every):,} latents have a page with snippets and tokens: {how}")
    if len(every) > MOST_LISTED:
        lacks.append(f"the first {MOST_LISTED:,} of {len(every):,} latents are listed")
    completed = {row.anchor: row for row in found.rows}
    return LatentTable(
        title=f"Core latents of {Path(sweep_dir).absolute().name}",
        of_sweep=True,
        rows=tuple(completed.get(row.anchor, row) for row in every[:MOST_LISTED]),
        text=found.text,
        about=_about(cores, opened, found.tokens),
        lacks=tuple(lacks),
    )


@dataclass(eq=False)
class _Opened:
    """What was read of the SAEs of the compared trials, by trial: the core's latents, scores and frequencies."""

    about: dict[str, dict[str, Any]]
    latents: dict[str, LatentRows]
    shares: dict[str, dict[int, "Tensor"]]
    frequency: dict[str, "Tensor"]
    kept: dict[str, tuple[Lineage, "Tensor"]]

    def encoder(self, core: TrialCore) -> tuple[Lineage, "Tensor"]:
        """Return ids and encoder rows of a core; of the distilled core alone where the SAE is gone."""
        if core.name in self.latents:
            return core.ids, self.latents[core.name].encoder
        return self.kept[core.name]


def _opened(output: Folder, cores: Sequence[TrialCore], progress: Progress, lacks: list[str]) -> _Opened:
    """Read what is needed of the SAEs, one at a time; say what is gone."""
    found = _Opened({}, {}, {}, {}, {})
    for n, core in enumerate(cores):
        kept = _distilled(core, lacks)
        found.kept[core.name] = kept.lineage, kept.rows
        shares = found.shares[core.name] = {}
        for cycle, key in core.keys.items():
            if cycle > core.cycle:
                continue
            try:
                scores = read_scores(output / "cycles" / key, kept.provenance, cycle)
                if scores is not None:
                    shares[cycle] = scores.shares
                if cycle == core.cycle:
                    with opened_sae(output / "cycles" / key / "sae") as (sae, about):
                        cut = latent_rows(sae, [core.place(cycle, i) for i in core.ids])
                    found.latents[core.name], found.about[core.name] = cut, about
                    if scores is not None:
                        found.frequency[core.name] = scores.frequency[list(cut.latents)]
            except DataError as error:
                if cycle == core.cycle:
                    lacks.append(f"{core.name}: its SAE cannot be read; C* alone is listed, without pages ({error})")
        progress("SAEs", n + 1, len(cores), "trials")
    return found


def _distilled(core: TrialCore, lacks: list[str]) -> Core:
    """Return the distilled core of a trial from its own file; an empty one where that is gone."""
    assert core.result.folder is not None, "it was loaded from a folder"
    try:
        return load_core(core.result.folder / CORE_FILE)
    except DataError as error:
        lacks.append(str(error))
        return empty_core(1)


def _rows(core: TrialCore, opened: _Opened, others: Sequence[tuple[str, Lineage, "Tensor"]]) -> list[LatentRow]:
    """Return the rows of a core; those of the cores of other seeds are given by trial: ids and encoder rows."""
    ids, encoder = opened.encoder(core)
    frequency = opened.frequency.get(core.name)
    rows = [
        LatentRow(
            anchor=f"{core.name}-{latent}",
            name=str(latent),
            latent=core.place(core.cycle, latent),
            trial=core.name,
            setting=core.result.setting.label,
            seed=core.result.trial.seed,
            distilled=latent in core.distilled,
            born=latent.cycle,
            survived=core.cycle - latent.cycle,
            scores=tuple(_score(core, opened.shares[core.name], cycle, latent) for cycle in range(core.cycle + 1)),
            sampled_frequency=None if frequency is None else float(frequency[n]),
        )
        for n, latent in enumerate(ids)
    ]
    return _with_nearest(rows, encoder, others)


def _score(core: TrialCore, shares: dict[int, "Tensor"], cycle: int, latent: LineageId) -> float | None:
    row = core.row(cycle, latent) if cycle >= latent.cycle else None
    if row is None or cycle not in shares or row >= len(shares[cycle]):
        return None
    return float(shares[cycle][row])


def _with_nearest(
    rows: list[LatentRow], own: "Tensor", others: Sequence[tuple[str, Lineage, "Tensor"]]
) -> list[LatentRow]:
    """Add the nearest latents of other cores; a row that both have by construction is not compared with that core."""
    found: list[list[Nearest]] = [[] for _ in rows]
    for name, ids, encoder in others:
        shared, theirs = same_rows(own, encoder)
        if bool(shared.all()) or bool(theirs.all()):
            continue
        best, place = cosines(own, encoder).masked_fill(theirs[None, :], -2.0).max(dim=1)
        for near, cosine, at, same in zip(found, best.tolist(), place.tolist(), shared.tolist(), strict=True):
            if not same:
                near.append(Nearest(f"{name}-{ids[at]}", name, cosine))
    return [
        replace(row, nearest=tuple(sorted(near, key=lambda one: -one.cosine)))
        for row, near in zip(rows, found, strict=True)
    ]


def _picked(listed: dict[str, list[LatentRow]], opened: _Opened, most: int) -> list[Picked]:
    """Return up to `most` rows with their latents: of each trial as many, C* first, by descending score."""
    # Sorting is stable, and the rows stand by descending score.
    first = [sorted(rows, key=lambda r: not r.distilled) for name, rows in listed.items() if name in opened.latents]
    in_turn = (row for turn in zip_longest(*first) for row in turn if row is not None)
    taken = {row.anchor for row in islice(in_turn, most)}
    picked = []
    for name, rows in listed.items():
        own = [n for n, row in enumerate(rows) if row.anchor in taken]
        if own:
            picked.append(Picked(tuple(rows[n] for n in own), opened.latents[name].subset(own)))
    return picked


def random_best_cosine(d: int, n: int) -> float:
    """Return the median of the best cosine between one random direction in d dimensions and n others.

    The cosine of two isotropic directions, c, has (1 + c) / 2 ~ Beta((d - 1) / 2, (d - 1) / 2).
    """
    return 2 * float(betaincinv((d - 1) / 2, (d - 1) / 2, 0.5 ** (1 / n))) - 1


def _about(cores: Sequence[TrialCore], opened: _Opened, tokens: int) -> tuple[str, ...]:
    lines = [
        "A latent has the name of its origin, cycle.row: the cycle whose SAE learned its encoder row, and the row. "
        "C* is the distilled core. What a page shows is of the SAE of the last cycle.",
        "Score: share of the summed attribution score of the candidate pool, one bar a cycle.",
    ]
    if tokens:
        lines.append(
            f"Fires at: share of {tokens:,} held-out tokens at which it exceeds its inference threshold, which is 0 in "
            "a dense core."
        )
    sizes = sorted(len(core.ids) for core in cores)
    if len({core.result.trial.seed for core in cores}) > 1:
        middle, d = sizes[len(sizes) // 2], opened.encoder(cores[0])[1].shape[1]
        chance = ""
        if d > 1:
            by_chance = random_best_cosine(d, middle)
            chance = (
                f" Of {middle} random directions in {d} dimensions the best has a cosine of {by_chance:.2f} (median)."
            )
        lines.append(
            "Nearest: largest cosine of its encoder row with one of the core of another seed, in the same setting and "
            f"cycle. What both have by construction (one given SAE or core) is not compared.{chance}"
        )
    return tuple(lines)
