"""Attribution coverage curves: how much of the summed score the best latents hold, by cycle.

The scores are in the cycle store, beside the sweeps of the same output.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmsae_ray.distill import CycleReport, load_core
from dmsae_ray.errors import DmsaeError
from dmsae_ray.files import Folder
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.report.latent_source import read_scores
from dmsae_ray.results import CORE_FILE, TrialResult

POINTS = 48
"""Counts of latents at which a curve is kept, evenly spaced on a logarithmic scale."""

Curve = npt.NDArray[np.float64]


def cycle_store(sweep_dir: Path, output: object) -> Folder:
    """Return the cycle store of a sweep: beside it, or in its `output` where that is a bucket."""
    beside = sweep_dir.absolute().parent.parent / "cycles"
    remote = isinstance(output, str) and Folder(output).local is None
    return Folder(str(output)) / "cycles" if remote and not beside.is_dir() else Folder(str(beside))


def cumulative_shares(store: Folder, report: CycleReport, provenance: dict[str, Any] | None = None) -> Curve | None:
    """Return the share of the summed score that the n best latents hold, for n = 1..pool; None without scores.

    Args:
        store: the cycle store.
        report: the cycle.
        provenance: that of the trial's core, see `latent_source.read_scores`.
    """
    if not report.key:
        return None
    try:
        found = read_scores(store / report.key, provenance, report.cycle)
    except DmsaeError:
        return None
    if found is None or not len(found.shares) or float(found.shares.sum()) <= 0:
        return None
    scores = np.sort(found.shares.numpy().astype(np.float64))[::-1]
    shares: Curve = np.cumsum(scores) / scores.sum()
    return shares


def provenance_of(result: TrialResult) -> dict[str, Any] | None:
    """Return the provenance of a trial's core; None where it has no core file that can be read."""
    path = None if result.folder is None else result.folder / CORE_FILE
    try:
        return load_core(path).provenance if path is not None and path.is_file() else None
    except DmsaeError:
        return None


def coverage_curves(replicas: Sequence[TrialResult], store: Folder) -> Mapping[int, tuple[list[int], list[Estimate]]]:
    """Return the curves over the replicas: {cycle: (counts of latents, shares)}, without cycles that have no scores."""
    curves: dict[int, tuple[list[int], list[Estimate]]] = {}
    asked = [provenance_of(r) for r in replicas]
    for cycle in sorted({c.cycle for r in replicas for c in r.reports}):
        own = [
            cumulative_shares(store, c, provenance)
            for r, provenance in zip(replicas, asked, strict=True)
            for c in r.reports
            if c.cycle == cycle
        ]
        known = [curve for curve in own if curve is not None]
        if known:
            pool = max(len(curve) for curve in known)
            counts = np.unique(np.geomspace(1, pool, POINTS).round().astype(int)).tolist()
            shares = [estimate((c[min(n, len(c)) - 1] for c in known), "share") for n in counts]
            curves[cycle] = (counts, shares)
    return curves
