"""Summaries of made-up trials, built with the package's own record types, so that a changed field is seen here."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmsae_ray.distill.core import Core, save_core
from dmsae_ray.distill.lineage import LineageId, descend, overlap
from dmsae_ray.distill.reports import CycleReport, WindowReport
from dmsae_ray.distill.result import DistillationResult
from dmsae_ray.plan import Trial

POOL, WIDTH, CYCLES, STEPS, BATCH = 256, 64, 3, 100, 512


def make_cycle(cycle: int, arm: str, before: Core, after: Core, fvu: float, l0: tuple[float, float]) -> CycleReport:
    found = overlap(before.lineage, after.lineage, POOL)
    return CycleReport(
        cycle=cycle,
        arm=arm,
        key=f"{cycle}{arm}",
        seed=0,
        n_core_in=len(before),
        n_core=len(after),
        pool=POOL,
        carried=found.carried if len(before) else None,
        carryover=found.carryover if len(before) else None,
        chance=found.chance if len(before) else None,
        new=found.new if len(before) else None,
        jaccard=found.jaccard if len(before) else None,
        core_share=0.6 if len(before) else None,
        collapsed=None,
        tokens=STEPS * BATCH,
        flops=3e12,
        seconds=4.0 + cycle,
        cached=False,
        metrics={
            "l0_core": l0[0],
            "l0_non_core": l0[1],
            "l0": sum(l0),
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "loss_recovered": 0.9 - fvu / 3,
            "dead_fraction": 0.25,
            **({"core_frequency_median": 0.4, "core_frequency_max": 0.8} if len(before) else {}),
        },
        retest=0.75 + 0.01 * cycle,
    )


def make_history(k: int, coverage: float, seed: int, cycles: int = CYCLES) -> DistillationResult:
    """A history whose cores overlap by lot, more so for a larger k and coverage."""
    random = np.random.default_rng([k, int(coverage * 100), seed])
    size = max(2, int(4 + 30 * coverage**2 + random.integers(0, 4)))
    keep = min(0.95, 0.4 + 0.08 * k + random.normal(0, 0.05))
    directions = torch.from_numpy(np.random.default_rng(7).normal(size=(size + 40, WIDTH)))
    history = DistillationResult(cycles=cycles, coverage=coverage, seed=seed)
    core = Core(torch.empty(0, WIDTH), ())
    for cycle in range(cycles + 1):
        carried = [i for i in range(len(core)) if random.random() < keep]
        fresh = [POOL // 2 + i for i in range(size - len(carried))]
        ids = (
            descend(core.lineage, cycle, carried + fresh) if len(core) else tuple(LineageId(0, i) for i in range(size))
        )
        noise = torch.from_numpy(random.normal(size=(len(ids), WIDTH)))
        after = Core(directions[: len(ids)] + 0.4 * noise, ids)
        fvu = float(0.5 - 0.2 * coverage - 0.01 * k + random.normal(0, 0.005))
        l0 = (0.3 * len(core) + float(random.normal(0, 0.2)) if len(core) else 0.0, k * 0.98)
        history.reports.append(make_cycle(cycle, "distilled", core, after, fvu, l0))
        history.cores.append(after)
        if cycle == cycles:
            lost = Core(core.rows, tuple(LineageId(9, i) for i in range(len(core))))
            kept = lost.lineage[: int(len(core) * keep * 0.7)]
            chosen = Core(torch.ones(len(kept) + 3, WIDTH), kept + tuple(LineageId(10, i) for i in range(3)))
            history.control_reports["gaussian"] = make_cycle(cycle, "gaussian", lost, chosen, fvu + 0.03, l0)
        core = after
    return history


def make_summary(k: int, coverage: float, seed: int, cycles: int = CYCLES) -> dict[str, Any]:
    params = {"k": k, "coverage": coverage, "seed": seed, "data_seed": 0, "core_sparsity": "dense"}
    trial_id = f"k{k}-tau{coverage:g}-seed{seed}"
    return {"trial_id": trial_id, "params": params, **make_history(k, coverage, seed, cycles).summary()}


def write_trial(sweep_dir: Path, k: int, coverage: float, seed: int, cycles: int = CYCLES) -> str:
    summary = make_summary(k, coverage, seed, cycles)
    folder = sweep_dir / "trials" / summary["trial_id"]
    folder.mkdir(parents=True, exist_ok=True)
    save_core(make_history(k, coverage, seed, cycles).distilled, folder / "core.safetensors")
    (folder / "summary.json").write_text(json.dumps(summary))
    return str(summary["trial_id"])


def write_transfer(
    sweep_dir: Path,
    k: int,
    arm: str,
    core_sparsity: str,
    seed: int,
    *,
    budget: float = 1,
    made: int | None = None,
    axes: Mapping[str, Any] | None = None,
    more_fvu: float = 0.0,
) -> float:
    """Write a made-up transfer; return its FVU."""
    random = np.random.default_rng([k, len(arm), len(core_sparsity), seed])
    core = Core(torch.ones(20, WIDTH), tuple(LineageId(0, i) for i in range(20)))
    empty = Core(torch.empty(0, WIDTH), ())
    l0 = (0.0 if arm == "baseline" else 5.0 if arm == "distilled" else 1.0, float(k))
    fvu = 0.4 - 0.01 * k + (0.05 if arm == "gaussian" else 0) + random.normal(0, 0.005) + more_fvu
    record = make_cycle(1, arm, empty if arm == "baseline" else core, core, float(fvu), l0)
    record = replace(record, flops=budget * record.flops)
    params = {"k": k, "seed": seed, "data_seed": 0, "core_sparsity": core_sparsity, "arm": arm}
    params |= {**({} if budget == 1 else {"budget": budget}), **(axes or {})}
    trial_id = Trial.from_params(params).trial_id
    folder = sweep_dir / "trials" / trial_id
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"trial_id": trial_id, "params": params, "records": [record.as_dict()], "tokens": 1000, "flops": 1e12}
    summary["core_trainings"] = made
    (folder / "summary.json").write_text(json.dumps(summary))
    return float(fvu)


def make_windows(cycle: int, arm: str, points: int = 10) -> tuple[WindowReport, ...]:
    """The curve of one cycle, as a worker reports it."""
    windows = []
    for point in range(1, points + 1):
        step = STEPS * point // points
        core = 8 - (4 if arm == "gaussian" else 1) * point / points if cycle else 0.0
        stats = {"loss": 1 / (step + 10), "l0_core": core, "l0_non_core": 4.0, "prefix_mse_0": 0.5}
        windows.append(WindowReport(cycle, arm, step, (cycle * STEPS + step) * BATCH, stats))
    return tuple(windows)
