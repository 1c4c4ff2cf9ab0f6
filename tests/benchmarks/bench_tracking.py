"""What tracking costs a sweep of many trials: time in the callback, journal on disk, memory, time to open it again.

    python tests/benchmarks/bench_tracking.py [--trials 1000]      # results/tracking.json

Each trial has seven cycles after the first and one control, and 54 windows a training: 3.9 million numbers for 1,000
trials. The floor beside it is the same bytes written and synced by a bare loop. Delivery to MLflow's SQLite file is
measured on the first trials alone.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from machine import machine, save

from dmsae_ray.distill import DISTILLED, CycleReport, WindowReport
from dmsae_ray.plan import CycleSetting, Trial
from dmsae_ray.results import TrialReport
from dmsae_ray.tracking import SweepTracker, TrialRecords
from dmsae_ray.tracking.destination import Destination
from dmsae_ray.tracking.journal import Journal

TRAININGS, WINDOWS, BATCH = 8, 54, 2048
STATS = dict.fromkeys(
    ("loss", "aux_loss", "l0_core", "l0_non_core", "dead", "grad_norm", "lr", "threshold", "prefix_mse_0"), 0.123456789
)
METRICS = dict.fromkeys(
    ("fvu", "loss_recovered", "l0", "l0_core", "l0_non_core", "dead_fraction", "core_dead_fraction"), 0.123456789
)


def reports(cycle: int, arm: str) -> list[TrialReport]:
    """What a worker reports of one training: six times some windows, then the cycle."""
    windows = [WindowReport(cycle, arm, 500 * n, 0, STATS) for n in range(1, WINDOWS + 1)]
    done = CycleReport(
        cycle, arm, f"{cycle:064x}", 0, 100, 100, 4096, 80, 0.8, 0.1, 20, 0.7, 0.5, None, 10**8, 1e15, 600.0, False,
        METRICS,
    )  # fmt: skip
    parts = [TrialReport(windows=tuple(windows[n : n + 9])) for n in range(0, WINDOWS, 9)]
    return [*parts, TrialReport(cycles=(done,))]


def record(tracker: SweepTracker, trials: list[Trial]) -> float:
    """Record all that `trials` report; return the seconds in the callback."""
    records = TrialRecords(tracker, trials, BATCH, "s3://bucket/cycles")
    made = [reports(cycle, DISTILLED) for cycle in range(TRAININGS - 1)] + [reports(TRAININGS - 2, "gaussian")]
    began = perf_counter()
    for trial in trials:
        params = trial.params()
        records.begin(trial.trial_id, params)
        for training in made:
            for report in training:
                records.report(trial.trial_id, params, report)
        tracker.end(trial.trial_id)
    return perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--delivered", type=int, default=10, help="trials whose delivery is measured")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "trials": args.trials}
    trials = [Trial(CycleSetting(8 + n % 50, 0.9, "dense"), n // 50, 0) for n in range(args.trials)]
    process = psutil.Process(os.getpid())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracker = SweepTracker(Destination.of_file(folder / "mlflow.db"), "bench", folder / "few", "few-1")
        tracker.start()
        few = trials[: args.delivered]
        began = perf_counter()
        record(tracker, few)
        tracker.flush(600)
        numbers = len(few) * TRAININGS * WINDOWS * len(STATS)
        result["delivery_numbers_per_s"] = round(numbers / (perf_counter() - began))
        tracker.close()

        # Journal alone: as in an outage from the first minute on.
        tracker = SweepTracker(Destination.of_file(folder / "mlflow.db"), "bench", folder / "many", "many-1")
        tracker.start()
        assert tracker._sender is not None
        tracker._sender.close(30)
        before = process.memory_info().rss
        seconds = record(tracker, trials)
        result["callback_ms_a_trial"] = round(1e3 * seconds / len(trials), 1)
        result["memory_mb"] = round((process.memory_info().rss - before) / 1e6, 1)
        assert tracker._journal is not None
        result["records"] = tracker._journal.count
        tracker._journal.close()
        path = folder / "many" / "journal.jsonl"
        size = path.stat().st_size
        result["numbers"] = len(trials) * TRAININGS * WINDOWS * len(STATS)
        result["journal_mb"] = round(size / 1e6, 1)
        began = perf_counter()
        Journal(path).close()
        result["reopen_s"] = round(perf_counter() - began, 2)
        began = perf_counter()
        with open(path, "rb") as file:
            lines = sum(1 for _ in file)
        result["read_lines_s"] = round(perf_counter() - began, 2)
        writes = len(trials) * TRAININGS * 8
        with open(folder / "floor", "wb") as file:
            began = perf_counter()
            for _ in range(writes):
                file.write(b"x" * (size // writes))
                file.flush()
                os.fsync(file.fileno())
        result["floor_ms_a_trial"] = round(1e3 * (perf_counter() - began) / len(trials), 1)
        result["lines"] = lines
    print(result, save("tracking", result), sep="\n")


if __name__ == "__main__":
    main()
