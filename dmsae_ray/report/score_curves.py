"""Attribution coverage curves: how much of the summed score the best latents hold, by cycle.

The scores are in the cycle store, beside the sweeps of the same output.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from dmsae_ray.distill import CycleReport
from dmsae_ray.errors import DmsaeError
from dmsae_ray.files import Folder
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.results import TrialResult

TENSORS_FILE = "tensors.safetensors"
POINTS = 48
"""Counts of latents at which a curve is kept, evenly spaced on a logarithmic scale."""

Curve = npt.NDArray[np.float64]


def cycle_store(sweep_dir: Path, output: object) -> Folder:
    """Return the cycle store of a sweep: beside it, or in its `output` where that is a bucket."""
    beside = sweep_dir.absolute().parent.parent / "cycles"
    remote = isinstance(output, str) and Folder(output).local is None
    return Folder(str(output)) / "cycles" if remote and not beside.is_dir() else Folder(str(beside))


def cumulative_shares(store: Folder, report: CycleReport) -> Curve | None:
    """Return the share of the summed score that the n best latents hold, for n = 1..pool; None without scores."""
    if not report.key:
        return None
    try:
        content = (store / report.key).read(TENSORS_FILE)
        scores = None if content is None else np.sort(load(content)["scores"].astype(np.float64))[::-1]
    except (DmsaeError, SafetensorError, KeyError, ValueError):
        return None
    if scores is None or not len(scores) or scores.sum() <= 0:
        return None
    shares: Curve = np.cumsum(scores) / scores.sum()
    return shares


def coverage_curves(replicas: Sequence[TrialResult], store: Folder) -> Mapping[int, tuple[list[int], list[Estimate]]]:
    """Return the curves over the replicas: {cycle: (counts of latents, shares)}, without cycles that have no scores."""
    curves: dict[int, tuple[list[int], list[Estimate]]] = {}
    for cycle in sorted({c.cycle for r in replicas for c in r.reports}):
        own = [cumulative_shares(store, c) for r in replicas for c in r.reports if c.cycle == cycle]
        known = [curve for curve in own if curve is not None]
        if known:
            pool = max(len(curve) for curve in known)
            counts = np.unique(np.geomspace(1, pool, POINTS).round().astype(int)).tolist()
            shares = [estimate((c[min(n, len(c)) - 1] for c in known), "share") for n in counts]
            curves[cycle] = (counts, shares)
    return curves
