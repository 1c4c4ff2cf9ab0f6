"""Rediscovery: are the latents of a core found again by SAEs that were trained without it, from other seeds?

METHOD, "Settled in the second round", 5. Rows of a core are copied, so carryover cannot answer this. Each set of
latents is matched one to one with all latents of another SAE, by encoder rows, by decoder rows, and by activations on
held-out tokens. Beside the distilled core stand sets of the same size from the same trial's cycle 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dmsae_ray.config import of_training, short_names
from dmsae_ray.distill import LineageId, same_rows
from dmsae_ray.errors import DataError, DmsaeError
from dmsae_ray.evaluation import CoActivation
from dmsae_ray.files import Folder
from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.core_rivals import DISTILLED, DRAWS, IN_FIRST, RIVALS, CoreSets, core_sets
from dmsae_ray.report.held_out_pairs import HeldOut, Pairs, read_by
from dmsae_ray.report.latent_source import opened_sae
from dmsae_ray.report.latent_table import Progress, no_progress
from dmsae_ray.report.trial_cores import TrialCore, output_of_sweep, trial_cores
from dmsae_ray.results import TrialResult, load_results
from dmsae_ray.sae import MatryoshkaSAE, latent_rows

CHANCE = "chance"
"""As many latents without any meaning: rows mixed of a pool's, and activations at tokens in another order."""
CHANCE_DRAWS, LARGE = 20, 1 << 20
"""Draws of rows without meaning; `DRAWS` where there are more cosines than that to match."""
SETS = (DISTILLED, IN_FIRST, *RIVALS, CHANCE)
BY = ("encoder", "decoder", "activations")
LIMITS = (0.7, 0.9)
CANDIDATES = 8
"""Latents of the other SAE, of the largest cosines by encoder and by decoder rows, whose activations are compared."""


@dataclass(frozen=True)
class Other:
    """An SAE that was trained without a core.

    Attributes:
        kind: what differs from the core's own trial: 'another seed', 'another k', 'another lr' (a further axis), or the
            name of another sweep.
        name: the trial, or the first of them, that trained it.
        key: key of its cycle.
        seed: seed of the trial.
        folder: its folder.
        output: the output that it is in, with the stores of its activations.
    """

    kind: str
    name: str
    key: str
    seed: int
    folder: Folder
    output: Folder


@dataclass(frozen=True)
class Again:
    """How one set of latents is found again by one SAE.

    Attributes:
        trial: the trial of the set.
        setting: its setting.
        seed: its seed; of trials of one setting that share cycle 0, that of the first: their cores are choices from one
            SAE, and together one replica.
        set: one of SETS.
        other: name of the trial whose SAE it is.
        kind: see `Other`.
        size: number of latents.
        mean: by 'encoder', 'decoder', 'activations': mean best cosine or correlation, one to one.
        share: by the same and a limit, as 'decoder 0.9': share of the latents at or above it.
    """

    trial: str
    setting: CycleSetting
    seed: int
    set: str
    other: str
    kind: str
    size: int
    mean: Mapping[str, float]
    share: Mapping[str, float]


@dataclass(frozen=True)
class CoreLatent:
    """One latent of a distilled core.

    Attributes:
        trial: its trial.
        lineage: its lineage id.
        decoder: cosine of its decoder row with its partner's in each SAE of another seed. The row is that of cycle 0,
            where all latents of the core were born there; a dense core's rows leave their features later.
        activations: correlation with its partner in each; empty where activations were not compared.
    """

    trial: str
    lineage: LineageId
    decoder: tuple[float, ...]
    activations: tuple[float, ...]

    @property
    def anchor(self) -> str:
        """Where its page is in the report."""
        return f"{self.trial}-{self.lineage}"

    def found(self, limit: float) -> int:
        """Number of SAEs that have it, by its decoder row."""
        return sum(cosine >= limit for cosine in self.decoder)


@dataclass(frozen=True)
class Rediscovery:
    """What the sets of a sweep's trials are to the SAEs of other seeds.

    Attributes:
        again: one for each set of a trial and other SAE.
        latents: those of the distilled cores.
        tokens: held-out tokens on which activations were compared; 0 if none were.
        lacks: a line for each thing that could not be had.
    """

    again: tuple[Again, ...]
    latents: tuple[CoreLatent, ...]
    tokens: int = 0
    lacks: tuple[str, ...] = ()


def rediscovery(
    sweep_dir: str | Path,
    *,
    against: Sequence[str | Path] = (),
    store: str | None = None,
    tokens: int = 65_536,
    progress: Progress = no_progress,
) -> Rediscovery:
    """Look for the latents of a sweep's distilled cores, and of their rivals, in the SAEs of other seeds.

    The other SAEs are those of cycle 0, and baselines of transfers: trained here, without a core. An SAE of the core's
    own seed begins with the same directions and is no witness; nor is one that both trials were given.

    Args:
        sweep_dir: the sweep's folder.
        against: folders of other sweeps whose SAEs are looked into too: of another layer, other text, other settings.
        store: the store of activations, if not the one noted with the SAEs.
        tokens: held-out tokens on which activations are compared; 0: they are not.
        progress: told how far it is.

    Raises:
        DataError: no trial of cycles is finished, no two seeds are there, or a summary cannot be read.
    """
    results, lacks = load_results(sweep_dir), list[str]()
    own = [r for r in results if isinstance(r.setting, CycleSetting) and r.collapse is None]
    if not own:
        raise DataError(f"'{sweep_dir}' has no finished trial that selected cores")
    lacks += [f"{r.trial_id} collapsed ({r.collapse}): it is in no number" for r in results if r.collapse is not None]
    output = output_of_sweep(Path(sweep_dir))
    others = _others(results, output, "")
    for folder in against:
        others += _others(load_results(folder), output_of_sweep(Path(folder)), Path(folder).absolute().name)
    cores = trial_cores(own, None, lacks)
    wanted = {core.name: _witnesses(core, others) for core in cores}
    if not any(wanted.values()):
        raise DataError(
            f"'{sweep_dir}' has no SAE without a core of another seed than the cores': give sweep.seeds several, or "
            "name another sweep by --against"
        )
    lacks += [f"{name}: no SAE of another seed to look into" for name, found in wanted.items() if not found]
    sets = [made for core in cores if wanted[core.name] and (made := core_sets(core, output, lacks)) is not None]
    return _looked_for(sets, wanted, output, store, tokens, progress, lacks)


def _others(results: Sequence[TrialResult], output: Folder, name: str) -> list[tuple[TrialResult, str, Folder, str]]:
    """Return the SAEs that were trained without a core: (trial, key, output, name of another sweep), each once."""
    found: dict[str, tuple[TrialResult, str, Folder, str]] = {}
    for result in results:
        for report in result.reports:
            trained = report.n_core_in == 0 and report.seed != 0 and report.collapsed is None
            if trained and report.key:
                found.setdefault(report.key, (result, report.key, output, name))
    return list(found.values())


def _witnesses(core: TrialCore, others: Sequence[tuple[TrialResult, str, Folder, str]]) -> list[Other]:
    setting, found = core.result.setting, []
    for result, key, output, sweep in others:
        if result.trial.seed == core.result.trial.seed or key in core.keys.values():
            continue
        kind = sweep or f"another {' and '.join(_differing(setting, result.setting)) or 'seed'}"
        name = f"{sweep}/{result.trial_id}" if sweep else result.trial_id
        found.append(Other(kind, name, key, result.trial.seed, output / "cycles" / key / "sae", output))
    return found


def _differing(one: Setting, other: Setting) -> list[str]:
    """Return in what SAEs of two settings that have no core differ, beside their seed."""
    mine, theirs = (dict(of_training(setting.axes)) for setting in (one, other))
    names = short_names(one.axes)
    axes = [names[axis] for axis in mine if mine[axis] != theirs.get(axis)]
    return [*(["k"] if one.k != other.k else []), *axes]


def _looked_for(
    sets: Sequence[CoreSets],
    wanted: Mapping[str, Sequence[Other]],
    output: Folder,
    store: str | None,
    tokens: int,
    progress: Progress,
    lacks: list[str],
) -> Rediscovery:
    """Open each other SAE once, and look into it for all sets."""
    pairs = [(own, other) for own in sets for other in wanted[own.core.name]]
    replicas = _replicas(sets, lacks)
    held_out = HeldOut(output, store, tokens, lacks)
    again: list[Again] = []
    decoder: dict[tuple[str, LineageId], list[float]] = {}
    firing: dict[tuple[str, LineageId], list[float]] = {}
    seen = done = 0
    for key in dict.fromkeys(other.key for _, other in pairs):
        here = [(own, other) for own, other in pairs if other.key == key]
        try:
            with opened_sae(here[0][1].folder) as (sae, about):
                fitting = [(own, other) for own, other in here if own.width == sae.d_model]
                if not fitting:
                    raise DataError(f"it has width {sae.d_model}, the cores {here[0][0].width}")
                rows = {"encoder": _unit(sae.W_enc), "decoder": _unit(sae.W_dec)}
                together: dict[str, dict[str, Tensor]] = {}
                for alike in _by_store([own for own, _ in fitting]):
                    pairs_of_rows = held_out.pairs(alike[0].about, about, here[0][1].output, sae.d_model)
                    correlations, count = _correlations(alike, sae, rows, pairs_of_rows)
                    together |= correlations
                    seen = max(seen, count)
                for own, other in fitting:
                    shared = int(same_rows(own.sets[DISTILLED][0].encoder, sae.W_enc)[0].sum())
                    if shared:
                        what = f"{shared} rows of its core are rows of the SAE of {other.name}"
                        lacks.append(f"{own.core.name}: {what}: it shares a training with it and is no witness")
                        continue
                    name = own.core.name
                    found, of_star = _compared(own, other, rows, together.get(name, {}), replicas[name])
                    again += found
                    if other.kind == "another seed":
                        for n, latent in enumerate(own.ids):
                            decoder.setdefault((own.core.name, latent), []).append(float(of_star["decoder"][n]))
                            if "activations" in of_star:
                                firing.setdefault((own.core.name, latent), []).append(float(of_star["activations"][n]))
        except DmsaeError as error:
            lacks.append(f"{here[0][1].name}: its SAE cannot be looked into ({error})")
        done += len(here)
        progress("SAEs of other seeds", done, len(pairs), "pairs")
    told = set[tuple[object, LineageId]]()  # trials that share cycle 0 share latents
    latents = [
        CoreLatent(own.core.name, i, tuple(decoder[own.core.name, i]), tuple(firing.get((own.core.name, i), ())))
        for own in sets
        for i in own.ids
        if (own.core.name, i) in decoder and _is_new(own, i, told)
    ]
    return Rediscovery(tuple(again), tuple(latents), seen, tuple(lacks))


def _replicas(sets: Sequence[CoreSets], lacks: list[str]) -> dict[str, int]:
    """Return the seed under which each trial is counted, by its name, see `Again`."""
    alike: dict[object, list[CoreSets]] = {}
    for own in sets:
        alike.setdefault(_origin(own), []).append(own)
    for shared in alike.values():
        if len(shared) > 1:
            seeds = ", ".join(str(own.core.result.trial.seed) for own in shared)
            lacks.append(
                f"{shared[0].core.result.setting.label}: seeds {seeds} share cycle 0: their cores are choices from one "
                "SAE, and count as one"
            )
    return {own.core.name: shared[0].core.result.trial.seed for shared in alike.values() for own in shared}


def _origin(own: CoreSets) -> object:
    """Return what replicas of a setting have in common where they are none: the training of cycle 0."""
    return own.core.result.setting, own.core.keys.get(0, own.core.name)


def _is_new(own: CoreSets, latent: LineageId, told: set[tuple[object, LineageId]]) -> bool:
    """Note a latent; return whether it was not there yet. One that was born later is of its own trial."""
    what = (_origin(own) if latent.cycle == 0 else own.core.name, latent)
    new = what not in told
    told.add(what)
    return new


def _compared(
    own: CoreSets, other: Other, rows: Mapping[str, Tensor], correlations: Mapping[str, Tensor], seed: int
) -> tuple[list[Again], dict[str, Tensor]]:
    """Return how each set is found again in an SAE of these unit rows, and the partners of the distilled latents."""
    result, star = own.core.result, dict[str, Tensor]()
    assert isinstance(result.setting, CycleSetting), "transfers have no cores"
    found = []
    times = CHANCE_DRAWS if len(own.ids) * len(rows["encoder"]) <= LARGE else DRAWS
    for name in (*own.sets, CHANCE):
        draws = own.sets[name] if name != CHANCE else [own.chance(draw) for draw in range(times)]
        values: dict[str, list[Tensor]] = {}
        for latents in draws:
            for by, mine in (("encoder", latents.encoder), ("decoder", latents.decoder)):
                values.setdefault(by, []).append(_best((_unit(mine) @ rows[by].T).double()))
        if name in correlations:
            values["activations"] = [_best(correlations[name])]
        if name in (DISTILLED, IN_FIRST):
            star = {by: each[0] for by, each in values.items()}
        found.append(
            Again(
                trial=own.core.name,
                setting=result.setting,
                seed=seed,
                set=name,
                other=other.name,
                kind=other.kind,
                size=len(draws[0]),
                mean={by: _mean([float(one.nanmean()) for one in each]) for by, each in values.items()},
                share={
                    f"{by} {limit}": _mean([float((one >= limit).double().mean()) for one in each])
                    for by, each in values.items()
                    for limit in LIMITS
                },
            )
        )
    return found, star


def _by_store(sets: Sequence[CoreSets]) -> list[list[CoreSets]]:
    found: dict[object, list[CoreSets]] = {}
    for own in sets:
        found.setdefault(read_by(own.about), []).append(own)
    return list(found.values())


def _correlations(
    sets: Sequence[CoreSets], sae: MatryoshkaSAE, rows: Mapping[str, Tensor], pairs: Pairs | None
) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Return, by trial and set, the correlations [n, candidates] of activations with an SAE's; and the tokens.

    Only the candidates, see `CANDIDATES`, are encoded: another latent of nearly the same activations has at least one
    of both rows in common with it. Chance is what the distilled core has with its candidates when the tokens of these
    are in another order.
    """
    if pairs is None or not sets:
        return {}, 0
    collectors = []
    for own in sets:
        for name, draws in own.sets.items():
            latents = draws[0]
            near = torch.zeros(sae.n_latents, dtype=torch.bool)
            for mine, theirs in ((latents.encoder, rows["encoder"]), (latents.decoder, rows["decoder"])):
                best = (_unit(mine) @ theirs.T).topk(min(CANDIDATES, sae.n_latents), dim=1).indices
                near[best.flatten()] = True
            other = latent_rows(sae, near.nonzero().flatten().tolist())
            for what in (name, CHANCE) if name == DISTILLED else (name,):
                collectors.append((own.core.name, what, latents, other, CoActivation(len(latents), len(other))))
    tokens = 0
    for ours, seen in pairs:
        order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(tokens))
        tokens += len(ours)
        for _, what, latents, other, collector in collectors:
            collector.add(latents.encode(ours), other.encode(seen[order] if what == CHANCE else seen))
    found: dict[str, dict[str, Tensor]] = {}
    for trial, name, _, _, collector in collectors:
        found.setdefault(trial, {})[name] = collector.correlation()
    return found, tokens


def _unit(rows: Tensor) -> Tensor:
    """Return rows [n, d] of unit norm: float32, since an SAE may have many, and they are matched many times."""
    return torch.nn.functional.normalize(rows.detach().float(), dim=1)


def _best(correlation: Tensor) -> Tensor:
    """Return the cosine or correlation of each row's partner in the best one-to-one matching of [n, p]: float64 [n]."""
    rows, columns = linear_sum_assignment(-correlation.numpy())
    found = torch.full((len(correlation),), math.nan, dtype=torch.float64)
    found[torch.from_numpy(rows)] = correlation[torch.from_numpy(rows), torch.from_numpy(columns)]
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
