"""What every result file says about the machine it was measured on, and how runs become a figure."""

import json
import os
import platform
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Hardware, versions, date, and how busy the machine was with other work."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "ray", "transformers")},
    }


def interleaved(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    """Units a second, from rounds in which every run is done once, in turn.

    `wall` and `cpu` are medians by the wall clock and by the process's CPU time; `best` is the fastest by the wall
    clock: on a machine that does other work too, what the code can do.

    Args:
        runs: by name; each returns how many units it did.
        rounds: after one round that is not counted.
    """
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            began, began_cpu = perf_counter(), process_time()
            units = run()
            if i:
                wall[name].append(units / (perf_counter() - began))
                cpu[name].append(units / (process_time() - began_cpu))
    return {
        n: {"wall": statistics.median(wall[n]), "cpu": statistics.median(cpu[n]), "best": max(wall[n])} for n in runs
    }


def save(name: str, result: dict[str, Any]) -> Path:
    """Write a result file beside the others."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
