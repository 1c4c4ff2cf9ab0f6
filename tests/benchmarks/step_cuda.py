"""The step on CUDA: ours, peers, floor, memory at the paper's size; run by bench_step.py --cuda in under 8 minutes.

Needs torch, safetensors and this repository (no install, no network); a peer that is not installed is left out.

The floor is the least that an algorithm with the recipe's exact Adam must do, over rates measured here: FLOP of the
encoder product at the rate of an 8192^3 product in bfloat16, bytes at the rate of a copy. Bytes: both matrices' weights
and two moments read and written, gradients written and read (8 passes over 2 m d floats); then either four gathers of
d floats for each kept triple, or four more products over all of [B, m], whichever is less.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peers import PEERS, Shape, Step, batches, ours

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.kernel_choice import kernels_for

SHAPES = [Shape(2304, 65_536, k, batch) for batch in (2048, 8192) for k in (20, 80, 320, 640)]
LIMIT_SECONDS = 420.0
"""No further shape is begun after so long."""


def rates(device: str = "cuda", n: int = 8192) -> dict[str, float]:
    """FLOP/s of a bfloat16 product, and bytes/s of a copy, read and write counted."""
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    source = torch.randn(4 * n * n, device=device)
    target = torch.empty_like(source)
    product = statistics.median(_times(lambda: torch.mm(a, b), device, 12)[2:])
    copied = statistics.median(_times(lambda: target.copy_(source), device, 12)[2:])
    return {"flop_per_s": 2e3 * n**3 / product, "bytes_per_s": 2e3 * source.numel() * 4 / copied}


def floor_ms(shape: Shape, rate: dict[str, float]) -> dict[str, float]:
    """Milliseconds of the least work, with its parts."""
    element = 2 * shape.batch * shape.m * shape.d
    adam = 8 * 2 * shape.m * shape.d * 4
    gathers = 4 * shape.batch * shape.k * shape.d * 4
    by_triples = max(element / rate["flop_per_s"], (adam + gathers) / rate["bytes_per_s"])
    by_matrix = max(5 * element / rate["flop_per_s"], adam / rate["bytes_per_s"])
    return {
        "floor": 1e3 * min(by_triples, by_matrix),
        "floor: product": 1e3 * element / rate["flop_per_s"],
        "floor: Adam": 1e3 * adam / rate["bytes_per_s"],
        "floor: gathers": 1e3 * gathers / rate["bytes_per_s"],
    }


def measure(shape: Shape, rate: dict[str, float], device: str = "cuda", rounds: int = 5) -> dict[str, Any]:
    """Medians of interleaved steps in milliseconds, our peak of memory, and what was left out."""
    result: dict[str, Any] = {"shape": vars(shape), "notes": [], "ms": {}, **floor_ms(shape, rate)}
    xs = batches(shape, device)
    before = _allocated(device, reset=True)
    steps: dict[str, Step] = {"ours": ours(shape, device)}
    spent: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
    for i in range(6):
        steps["ours"](i, xs[i % len(xs)])
    _wait(device)
    began = time.perf_counter()
    for i in range(2):  # from an empty queue: what the host needs to fill it
        steps["ours"](i, xs[i])
    result["host_ms"] = 1e3 * (time.perf_counter() - began) / 2
    result["peak_mib"] = (_allocated(device, peak=True) - before) / 2**20
    floats = 4 * 2 * shape.m * shape.d * 4 + shape.batch * shape.m * 2
    result["budget_mib"] = 1.3 * floats / 2**20
    for name, make in PEERS.items():
        try:
            steps[name] = make(shape, device)
            steps[name](0, xs[0])
        except (ImportError, RuntimeError, TypeError) as error:
            steps.pop(name, None)
            result["notes"].append(f"{name} left out: {' '.join(str(error).split())[:120]}")
    for i in range(rounds + 1):
        for name, step in steps.items():
            run = _times(lambda: step(i + 1, xs[i % len(xs)]), device, 4 if name == "ours" else 1)  # noqa: B023
            spent[name] += run if i else []
    result["ms"] = {name: statistics.median(times) for name, times in spent.items() if times}
    return result


def report(device: str = "cuda", shapes: list[Shape] = SHAPES, n: int = 8192) -> dict[str, Any]:
    """Measures and prints: rates, a line for each shape as it is done, and where our time goes in two of them."""
    began = time.monotonic()
    rate = rates(device, n)
    name = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"{name}: {rate['flop_per_s'] / 1e12:.0f} TFLOP/s bfloat16, {rate['bytes_per_s'] / 1e12:.2f} TB/s copied")
    results = []
    for shape in shapes:
        if time.monotonic() - began > LIMIT_SECONDS:
            print(f"stopped before {shape} after {LIMIT_SECONDS:.0f} s")
            break
        results.append(measure(shape, rate, device))
        print(table(results).splitlines()[-1], *results[-1]["notes"], flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()
    print("\n" + table(results), flush=True)
    profiles = {}
    for shape in (shapes[1 % len(shapes)], shapes[-1]) if time.monotonic() - began < LIMIT_SECONDS else ():
        profiles[str(shape)] = profile(shape, device)
        print(f"\nwhere three steps of {shape} go\n{profiles[str(shape)]}", flush=True)
    triton = kernels_for(MatryoshkaSAE(2304, 64, [64], 1).to(device)) is not None
    return {"device": name, "triton_kernels": triton, **rate, "results": results, "profiles": profiles}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown; in brackets how many times ours."""
    names = list(dict.fromkeys(name for result in results for name in result["ms"]))
    head = ["B", "k", *(f"{name}, ms" for name in names), "host, ms", "floor, ms", "tokens/s", "peak / budget, MiB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for result in results:
        shape, ms = result["shape"], result["ms"]
        cells = [f"{ms[n]:.1f} ({ms[n] / ms['ours']:.1f}x)" if n in ms else "-" for n in names]
        floor = f"{result['floor']:.1f} ({result['floor'] / ms['ours']:.2f}x)"
        memory = f"{result['peak_mib']:.0f} / {result['budget_mib']:.0f}"
        rate = f"{1e3 * shape['batch'] / ms['ours']:,.0f}"
        row = [str(shape["batch"]), str(shape["k"]), *cells, f"{result['host_ms']:.1f}", floor, rate, memory]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def profile(shape: Shape, device: str = "cuda") -> str:
    """The 25 operations that three of our steps spend most time in."""
    step, xs = ours(shape, device), batches(shape, device)
    for i in range(6):
        step(i, xs[i % len(xs)])
    _wait(device)
    with torch.profiler.profile() as profiler:
        for i in range(3):
            step(i, xs[i])
        _wait(device)
    by = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60))


def _times(run: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Milliseconds of each run, back to back in the device's queue."""
    if device != "cuda":
        edges = [time.perf_counter()]
        for _ in range(repeats):
            run()
            edges.append(time.perf_counter())
        return [1e3 * (b - a) for a, b in itertools.pairwise(edges)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in itertools.pairwise(events)]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _allocated(device: str, *, peak: bool = False, reset: bool = False) -> int:
    if device != "cuda":
        return 0
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
