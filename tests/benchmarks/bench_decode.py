"""Decode and its gradients by triples and by matrix, against the share of [B, m] that is kept.

    python tests/benchmarks/bench_decode.py                # 2 threads; results/decode_cpu.json and .png

The density at which the lines cross is by_matrix.ON_CPU. Medians of interleaved runs, float32; kept places are random,
every latent as frequent as any other: skewed ones make gathers cheaper (caches) and leave the matrix as it is.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from bench_step import RESULTS, environment

from dmsae_ray.sae.by_matrix import ON_CPU, ByMatrix
from dmsae_ray.sae.by_triples import ByTriples
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.gradients import Gradients
from dmsae_ray.sae.triples import Triples

SHAPES = [(256, 2048, 512), (2304, 1024, 256)]
DENSITIES = [1 / n for n in (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2)]


def random_kept(m: int, b: int, density: float) -> Triples:
    g = torch.Generator().manual_seed(0)
    place = torch.randperm(m * b, generator=g)[: round(density * m * b)].sort().values
    values = torch.rand(len(place), generator=g) + 0.1
    return Triples(place % b, place // b, values, values.min())


def ways(d: int, m: int, b: int, density: float) -> dict[str, Callable[[], None]]:
    """Decode and gradients, by either."""
    sae, kept = MatryoshkaSAE(d, m, [m], 1), random_kept(m, b, density)
    gradients, centred = Gradients(sae), torch.randn(b, d)
    group_of = torch.zeros(m, dtype=torch.int64)

    @torch.no_grad()
    def run(code: ByTriples | ByMatrix) -> None:
        code.write(gradients, centred, code.decode())

    return {
        "triples": lambda: run(ByTriples(sae, kept, b, group_of, 1, in_blocks=True)),
        "matrix": lambda: run(ByMatrix(sae, kept, b, None)),
    }


def measure(rounds: int) -> list[dict[str, Any]]:
    """Median milliseconds of every way at every density."""
    cases = [(shape, density, ways(*shape, density)) for shape in SHAPES for density in DENSITIES]
    times: list[dict[str, list[float]]] = [{name: [] for name in made} for _, _, made in cases]
    for i in range(rounds + 2):
        for (_, _, made), spent in zip(cases, times, strict=True):
            for name, run in made.items():
                began = time.perf_counter()
                run()
                if i >= 2:
                    spent[name].append(1e3 * (time.perf_counter() - began))
    return [
        {"d": d, "m": m, "b": b, "density": density, **{n: statistics.median(t) for n, t in spent.items()}}
        for ((d, m, b), density, _), spent in zip(cases, times, strict=True)
    ]


def plot(points: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(SHAPES), figsize=(9, 3.4), layout="constrained")
    for axis, (d, m, b) in zip(axes, SHAPES, strict=True):
        mine = [p for p in points if p["d"] == d]
        for way in ("triples", "matrix"):
            axis.plot([p["density"] for p in mine], [p[way] for p in mine], marker="o", label=f"by {way}")
        axis.axvline(ON_CPU, color="gray", linestyle=":", label="matrix above")
        axis.axvline(640 / 65_536, color="gray", linestyle="--", label="k = 640 of m = 65,536")
        axis.set(xscale="log", yscale="log", ylim=(1, 150), title=f"d={d}, m={m}, B={b}", xlabel="kept share of [B, m]")
    axes[0].set_ylabel("ms, decode and its gradients")
    axes[0].legend(loc="upper left")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    points = measure(args.rounds)
    print("| d, m, B | kept | triples, ms | matrix, ms |", "|---|---|---|---|", sep="\n")
    for p in points:
        print(f"| {p['d']}, {p['m']}, {p['b']} | 1/{1 / p['density']:.0f} | {p['triples']:.1f} | {p['matrix']:.1f} |")
    report = {"environment": environment(args.threads), "points": points}
    (RESULTS / "decode_cpu.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(points, RESULTS / "decode_cpu.png")


if __name__ == "__main__":
    main()
