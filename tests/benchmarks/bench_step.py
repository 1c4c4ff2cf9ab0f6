"""Cost of one training step: ours, the peers that are installed, and the floor; interleaved runs, medians.

    python tests/benchmarks/bench_step.py                  # two shapes on the CPU, results/step_cpu_2threads.*
    python tests/benchmarks/bench_step.py --shape 256,8192,32,2048 --rounds 5 --threads 2
    python tests/benchmarks/bench_step.py --sweep          # cost against m, k, B and groups, results/step_sweep_cpu.*
    python tests/benchmarks/bench_step.py --cuda           # d=2304, m=65536 on a GPU, see step_cuda.py

Every figure is given in wall-clock time and in CPU time of the process: on a machine that does other work too, the
second is the steadier one (with several threads it also counts their waiting). Peers: see peers.py.

The floor is the larger of two measured rates applied to the algorithm's least work: the encoder product (2 B m d FLOP,
timed as one torch.mm) and the bytes that an exact Adam step must move (weights and two moments read and written,
gradients written and read: 8 passes over 2 m d floats, timed as copies).

To do better on a CPU: the product is two thirds of the step, so a screening product in bfloat16 (AVX512-BF16, AMX) with
the candidates recomputed in float32 would help most; it needs a bound on the rounding to select exactly the same set.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
import step_cuda
from peers import PEERS, Shape, Step, batches, ours

RESULTS = Path(__file__).parent / "results"
SHAPES = [Shape(256, 8192, 32, 2048), Shape(2304, 16384, 80, 512)]


def floor_steps(shape: Shape) -> dict[str, Step]:
    W, copied = torch.randn(shape.m, shape.d), torch.empty(shape.m, shape.d)
    u = torch.empty(shape.m, shape.batch)

    def product(_: int, x: Tensor) -> None:
        torch.mm(W, x.T, out=u)

    def traffic(_: int, x: Tensor) -> None:
        for _ in range(8):  # a copy is one read and one write; 8 passes over 2 m d floats
            copied.copy_(W)

    return {"floor: product": product, "floor: traffic": traffic}


def measure(shape: Shape, rounds: int, with_peers: bool = True) -> dict[str, Any]:
    """Medians of interleaved steps, milliseconds."""
    steps: dict[str, Step] = {"ours": ours(shape)}
    notes = []
    for name, make in PEERS.items() if with_peers else ():
        try:
            steps[name] = make(shape, "cpu")
        except ImportError as error:
            notes.append(f"{name} skipped: {error}")
    steps.update(floor_steps(shape))
    xs = batches(shape)
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 2):
        for name, step in steps.items():
            repeats = 1 if name in PEERS else 3
            for r in range(repeats):
                began, began_cpu = time.perf_counter(), time.process_time()
                step(i, xs[(i + r) % len(xs)])
                if i >= 2:
                    wall[name].append(time.perf_counter() - began)
                    cpu[name].append(time.process_time() - began_cpu)
    result: dict[str, Any] = {"shape": vars(shape), "notes": notes, "wall_ms": {}, "cpu_ms": {}, "times_ours": {}}
    for name in steps:
        result["wall_ms"][name] = 1e3 * statistics.median(wall[name])
        result["cpu_ms"][name] = 1e3 * statistics.median(cpu[name])
    for kind in ("wall_ms", "cpu_ms"):
        times = result[kind]
        times["floor"] = max(times["floor: product"], times["floor: traffic"])
        result["times_ours"][kind] = {name: times[name] / times["ours"] for name in times if name != "ours"}
    return result


def peak_memory(shape: Shape) -> dict[str, float]:
    """Our peak above what torch itself takes, in its own process; 1.3 times weights, gradients, moments and [B, m].

    MiB; the [batch, latents] matrix counts in bfloat16.
    """
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "import torch; torch.set_num_threads(1)\n"
        "from peers import Shape, ours\n"
        "def mib(name): return int(open('/proc/self/status').read().split(name + ':')[1].split()[0]) / 1024\n"
        "shape = Shape(*map(int, sys.argv[3].split(',')))\n"
        "x = torch.randn(shape.batch, shape.d)\n"
        "base = mib('VmRSS')\n"
        "step = ours(shape)\nfor i in range(4): step(i, x)\n"
        "print(mib('VmHWM') - base)\n"
    )
    here = Path(__file__).resolve().parent
    numbers = ",".join(str(n) for n in (shape.d, shape.m, shape.k, shape.batch, shape.groups))
    done = subprocess.run(
        [sys.executable, "-c", code, str(here), str(here.parents[1]), numbers],
        capture_output=True,
        text=True,
        check=True,
    )
    floats = 4 * 2 * shape.m * shape.d * 4 + shape.batch * shape.m * 2
    return {"peak_mib": float(done.stdout), "budget_mib": 1.3 * floats / 2**20}


def environment(threads: int) -> dict[str, Any]:
    def has(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "threads": threads,
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dictionary_learning": has("dictionary-learning"),
        "sae_lens": has("sae-lens"),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds a step and, in brackets, how many times ours."""
    names = [name for name in results[0]["wall_ms"]]
    lines = ["| d, m, k, B, groups | time | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for result in results:
        for kind in ("wall_ms", "cpu_ms"):
            cells = []
            for name in names:
                ratio = result["times_ours"][kind].get(name)
                cells.append(f"{result[kind][name]:.0f}" + (f" ({ratio:.2f}x)" if ratio else ""))
            shape = ", ".join(str(v) for v in result["shape"].values())
            lines.append(f"| {shape} | {kind[:-3]} ms | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep(rounds: int) -> list[dict[str, Any]]:
    base = Shape(256, 4096, 32, 1024)
    varied = {
        "m": [1024, 2048, 4096, 8192, 16384],
        "k": [8, 32, 128, 320],
        "batch": [256, 512, 1024, 2048],
        "groups": [1, 2, 5, 10],
    }
    points = []
    for name, values in varied.items():
        for value in values:
            shape = Shape(**{**vars(base), name: value})
            points.append({"varied": name, "value": value, **measure(shape, rounds, with_peers=False)})
    return points


def plot(points: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    titles = {"m": "dictionary size m", "k": "k", "batch": "batch B", "groups": "groups"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        mine = [p for p in points if p["varied"] == name]
        for series, label in (("ours", "ours"), ("floor: product", "encoder product alone")):
            axis.plot([p["value"] for p in mine], [p["cpu_ms"][series] for p in mine], marker="o", label=label)
        values = [p["value"] for p in mine]
        axis.set(xscale="log", xlabel=title, ylim=(0, None))
        axis.set_xticks(values, [str(v) for v in values], minor=False)
        axis.set_xticks([], minor=True)
    axes[0].set_ylabel("CPU ms a step")
    axes[0].legend()
    figure.suptitle("One step, float32; other settings: d=256, m=4096, k=32, B=1024, 5 groups")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="d,m,k,B[,groups]; may be given several times")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.cuda and not torch.cuda.is_available():
        sys.exit("--cuda: torch sees no CUDA device here")
    if args.cuda:
        report: dict[str, Any] = {"environment": environment(torch.get_num_threads()), **step_cuda.report()}
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "step_cuda.json").write_text(json.dumps(report, indent=1))
        (args.out / "step_cuda.md").write_text(step_cuda.table(report["results"]) + "\n")
        return
    torch.set_num_threads(args.threads)
    shapes = [Shape(*map(int, text.split(","))) for text in args.shape] if args.shape else SHAPES
    args.out.mkdir(parents=True, exist_ok=True)
    report = {"environment": environment(args.threads)}
    if args.sweep:
        report["points"] = sweep(args.rounds)
        plot(report["points"], args.out / "step_sweep_cpu.png")
        (args.out / "step_sweep_cpu.json").write_text(json.dumps(report, indent=1))
        return
    report["results"] = [{**measure(shape, args.rounds), "memory": peak_memory(shape)} for shape in shapes]
    print(table(report["results"]))
    for result in report["results"]:
        print(result["shape"], "memory MiB:", {k: round(v) for k, v in result["memory"].items()}, *result["notes"])
    name = f"step_cpu_{args.threads}threads"
    (args.out / f"{name}.json").write_text(json.dumps(report, indent=1))
    (args.out / f"{name}.md").write_text(table(report["results"]) + "\n")


if __name__ == "__main__":
    main()
