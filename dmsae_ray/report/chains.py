"""What is left of cycle 0's core after all cycles, beside controls that ran through the same cycles in its place."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dmsae_ray.distill import CycleReport
from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.report.paired import holm, paired
from dmsae_ray.report.tables import Table, behind_n, setting_columns, setting_texts, with_remarks
from dmsae_ray.results import TrialResult

Replicas = Mapping[Setting, Sequence[TrialResult]]


def chain_names(replicas: Mapping[Any, Sequence[TrialResult]]) -> list[str]:
    """Return the names of the controls that ran through all cycles of some trial."""
    return sorted({name for found in replicas.values() for result in found for name in result.chains})


def chain_survival(replicas: Sequence[TrialResult], name: str) -> list[Estimate]:
    """Return the share of a control that is left in cycles 0..L, over the seeds in which it did not collapse."""
    alive = [r.chains[name].survivors for r in replicas if name in r.chains and not r.chains[name].collapsed]
    known = [counts for counts in alive if counts and counts[0]]
    return [estimate((c[at] / c[0] for c in known), "share") for at in range(min(map(len, known), default=0))]


def chain_table(aggregates: Sequence[Aggregate[CycleSetting]], replicas: Replicas, last_cycle: int | None) -> Table:
    """Tabulate the share of C_0 and of each control in its place that is left after the last cycle.

    Differences are paired over the seeds, and corrected together. Chance is the share that would be left if each cycle
    drew as many latents of its pool as it selected. A control that collapsed is in no number of its own; its column
    then says its n.

    Args:
        aggregates: settings of finished trials.
        replicas: the trials behind their numbers.
        last_cycle: number of the last cycle.
    """
    shown = {a.setting: replicas.get(a.setting, ()) for a in aggregates}
    names = chain_names(shown)
    own = {setting: _left({r.trial.seed: r.survivors for r in found}) for setting, found in shown.items()}
    chances = {setting: [_chance(r.reports) for r in found] for setting, found in shown.items()}
    of_chains = {(setting, name): _chain_left(found, name) for setting, found in shown.items() for name in names}
    found = [paired(_shares(own[setting]), _shares(left), 1) for (setting, _), left in of_chains.items()]
    differences = iter(holm(found))
    head: tuple[str, ...] = (*setting_columns(aggregates), "core\nleft", "latents", "chance")
    for name in names:
        words = name.replace("_", " ")
        head += (f"{words}\nleft", "latents", "chance", f"core over\n{words}")
    rows = []
    for a in aggregates:
        cells: tuple[str, ...] = (*_cells(own[a.setting]), estimate(chances[a.setting], "share").percent())
        for name in names:
            chains = [r.chains[name] for r in shown[a.setting] if name in r.chains]
            chance = estimate((_chance(chain.reports) for chain in chains if not chain.collapsed), "share")
            left = _cells(of_chains[a.setting, name], len(own[a.setting]))
            cells += (*left, chance.percent(), next(differences).text())
        rows.append((*setting_texts(a), *cells))
    title = "What is left of cycle 0's core after all cycles, and of controls in its place"
    return with_remarks(Table(title, head, tuple(rows)), aggregates, last_cycle, behind_n(head))


def _left(alive: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, int]]:
    """Return, by seed, how many are left and of how many."""
    return {seed: (counts[-1], counts[0]) for seed, counts in alive.items() if counts and counts[0]}


def _chain_left(replicas: Sequence[TrialResult], name: str) -> dict[int, tuple[int, int]]:
    chains = {r.trial.seed: r.chains[name] for r in replicas if name in r.chains}
    return _left({seed: chain.survivors for seed, chain in chains.items() if not chain.collapsed})


def _chance(reports: Sequence[CycleReport]) -> float | None:
    """Return the share of a core that is expected to be left, if all selections around it are random."""
    known = [report.chance for report in reports if report.cycle > 0]
    return None if None in known or not known else math.prod(c for c in known if c is not None)


def _shares(found: Mapping[int, tuple[int, int]]) -> dict[int, float]:
    return {seed: left / of for seed, (left, of) in found.items()}


def _cells(found: Mapping[int, tuple[int, int]], seeds: int | None = None) -> tuple[str, str]:
    """Return the share that is left, and the counts behind it; fewer seeds than `seeds` are said."""
    share = estimate(_shares(found).values(), "share").percent()
    counts = f"{sum(left for left, _ in found.values())} of {sum(of for _, of in found.values())}" if found else "-"
    return share, counts if seeds in (None, len(found)) else f"{counts}, n = {len(found)}"
