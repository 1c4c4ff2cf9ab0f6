"""What rediscovery shows: tables, and sentences that claim no more than the seeds behind them."""

from collections.abc import Sequence

from dmsae_ray.plan import CycleSetting
from dmsae_ray.report.core_rivals import DISTILLED, IN_FIRST, RIVALS
from dmsae_ray.report.estimates import FEWEST, Estimate, Scale, estimate
from dmsae_ray.report.found_again import BY, LIMITS, SETS, CoreLatent, Rediscovery
from dmsae_ray.report.paired import Difference, holm, paired
from dmsae_ray.report.tables import Table

MEASURES = (*(f"mean {by}" for by in BY), *(f"{by} {limit}" for by in BY for limit in LIMITS))
"""Names of the measures: mean cosine or correlation, and shares at or above a limit."""
OFTEN = 0.5
"""A latent is found often if at least this share of the other SAEs has it."""
STAR = "* not 0 at 5%, all of the table corrected together (Holm)"


class Rediscovered:
    """The numbers of a `Rediscovery` by setting, kind of the other SAEs, set and seed.

    A number of a seed is the mean over the other SAEs: they are looked into by one and the same core, so that only the
    seeds of the cores are independent.

    Args:
        found: what was found.
    """

    def __init__(self, found: Rediscovery) -> None:
        self.found = found
        places = {(a.setting.order, a.setting, a.kind) for a in found.again}
        self.places = [(setting, kind) for _, setting, kind in sorted(places, key=lambda p: (p[0], p[2] != SAME, p[2]))]
        """(setting, kind), by setting; SAEs of another seed first."""

    def values(self, setting: CycleSetting, kind: str, name: str, measure: str) -> dict[int, float]:
        """Return a measure of a set by seed of its trial."""
        each: dict[int, list[float]] = {}
        for a in self.found.again:
            if (a.setting, a.kind, a.set) == (setting, kind, name):
                value = a.mean.get(measure[5:]) if measure.startswith("mean ") else a.share.get(measure)
                if value is not None:
                    each.setdefault(a.seed, []).append(value)
        return {seed: sum(values) / len(values) for seed, values in each.items()}

    def estimate(self, setting: CycleSetting, kind: str, name: str, measure: str) -> Estimate:
        """Return the estimate of a measure over the seeds."""
        scale: Scale = "difference" if measure.startswith("mean ") else "share"  # cosines and correlations
        return estimate(self.values(setting, kind, name, measure).values(), scale)

    def differences(self, measure: str, arm: str = DISTILLED) -> dict[tuple[CycleSetting, str, str], Difference]:
        """Return the distilled core less each rival, by (setting, kind, rival), corrected together."""
        keys, raw = [], []
        for setting, kind in self.places:
            own = self.values(setting, kind, arm, measure)
            for rival in RIVALS:
                other = self.values(setting, kind, rival, measure)
                if own and other:
                    keys.append((setting, kind, rival))
                    raw.append(paired(own, other, limit=2.0 if measure.startswith("mean ") else 1.0))
        return dict(zip(keys, holm(raw), strict=True))


SAME = "another seed"


def rediscovery_findings(found: Rediscovery) -> list[str]:
    """Return what was found, a sentence each."""
    numbers = Rediscovered(found)
    lines = []
    for arm, measure, rows in (
        (DISTILLED, "decoder", "the decoder rows of the last cycle"),
        (IN_FIRST, "decoder", "the decoder rows of cycle 0"),
        (DISTILLED, "encoder", "encoder rows"),
    ):
        differences = numbers.differences(f"{measure} {LIMITS[0]}", arm)
        known = {key: d for key, d in differences.items() if key[2] == RIVALS[0] and d.n}
        if not known:
            continue
        tested = [d for d in known.values() if d.p is not None]
        each = "; ".join(f"{setting.label}, {kind} {d.text()}" for (setting, kind, _), d in known.items())
        more, less = (sum(d.shown and sign * d.mean > 0 for d in tested) for sign in (1, -1))
        shown = f"more in {more}, less in {less} of {len(tested)} comparisons"
        if not tested:
            shown = f"fewer than {FEWEST} seeds, so that nothing is shown"
        lines.append(
            f"By {rows} at a cosine of {LIMITS[0]}, other SAEs have of the distilled core, less what they have of as "
            f"many best-scoring latents of cycle 0: {shown}: {each}."
        )
    if found.latents:
        lines.append(often_found(found.latents))
    return lines


def often_found(latents: Sequence[CoreLatent]) -> str:
    """Return a sentence: how many of these latents SAEs of other seeds have always, often, seldom and never."""
    counts = [latent.found(LIMITS[0]) / len(latent.decoder) for latent in latents]
    always, never = (sum(share == all_or_none for share in counts) for all_or_none in (1.0, 0.0))
    often = sum(OFTEN <= share < 1.0 for share in counts)
    seldom = len(counts) - always - often - never
    return (
        f"Of {len(counts)} latents of distilled cores, SAEs of other seeds have {always} always, {often} often (at "
        f"least half of them), {seldom} seldom, {never} never (cosine of {LIMITS[0]} with their decoder rows of cycle "
        "0)."
    )


def tables(found: Rediscovery) -> list[Table]:
    """Return the tables."""
    numbers = Rediscovered(found)
    made = [_sets(numbers)]
    made += [_differences(numbers, arm) for arm in (DISTILLED, IN_FIRST)]
    return [table for table in made if table.rows]


def _sets(numbers: Rediscovered) -> Table:
    rows = []
    for setting, kind in numbers.places:
        for name in SETS:
            cells = [numbers.estimate(setting, kind, name, measure) for measure in MEASURES]
            if any(cell.n for cell in cells):
                sizes = {a.size for a in numbers.found.again if (a.setting, a.kind, a.set) == (setting, kind, name)}
                size = f"{min(sizes)}" + (f"-{max(sizes)}" if len(sizes) > 1 else "")
                n = max(cell.n for cell in cells)
                rows.append((setting.label, kind, name, size, str(n), *(cell.text() for cell in cells)))
    head = ("setting", "in an SAE of", "set", "size", "n", *(m.replace(" ", "\n") for m in MEASURES))
    return Table("Found again: best cosine or correlation, one to one, and shares at a limit", head, tuple(rows))


def _differences(numbers: Rediscovered, arm: str) -> Table:
    every = {measure: numbers.differences(measure, arm) for measure in MEASURES}
    keys = list(dict.fromkeys(key for found in every.values() for key in found))
    rows = []
    for setting, kind, rival in keys:
        cells = [every[m].get((setting, kind, rival)) for m in MEASURES]
        rows.append((setting.label, kind, rival, *("-" if d is None else d.text() for d in cells)))
    head = ("setting", "in an SAE of", "rival", *(m.replace(" ", "\n") for m in MEASURES))
    what = "The distilled core" if arm == DISTILLED else "The distilled core as it is in cycle 0"
    star = STAR.replace("table", "column")
    return Table(f"{what} less its rivals, paired by seed; {star}", head, tuple(rows))


def latent_rows(found: Rediscovery) -> Sequence[tuple[str, str, int, int, int, float]]:
    """Return the latents: trial, lineage, SAEs, how many have it at each limit, mean cosine."""
    return [
        (
            latent.trial,
            str(latent.lineage),
            len(latent.decoder),
            *(latent.found(limit) for limit in LIMITS),  # type: ignore[misc]
            sum(latent.decoder) / len(latent.decoder),
        )
        for latent in found.latents
    ]
