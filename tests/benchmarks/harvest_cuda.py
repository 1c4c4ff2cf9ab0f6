"""Gemma-2 of full size with random weights on a GPU: tokens/s of activations and gradients, share of the bf16 peak.

Run by bench_harvest.py --cuda in under 8 minutes. Needs torch, transformers and this repository: no Ray, no MLflow, no
network. A case that the installed kernels refuse, or that does not fit, is a note.

The peak is the rate of an 8192^3 product in bfloat16 in the same run. FLOP are those that the model needs, as
`dmsae_ray.plan.cost` counts them: attention over half the context, no recomputation, no padding. An implementation
counts only if its activations are those of eager, which soft-caps: the relative difference is given. (sdpa knows no
capping; transformers refuses it for Gemma 2, which is noted.)
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dmsae_ray.lm.tap import Tap

FULL = {
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
    "vocab_size": 256_000,
}
SMALL = {**FULL, "hidden_size": 64, "num_hidden_layers": 4, "head_dim": 16, "intermediate_size": 128, "vocab_size": 512}
"""For a machine without a GPU: to see that all of this runs."""
ATTENTION = ("eager", "flex_attention", "sdpa")
LIMIT_SECONDS = 400.0
"""No further case is begun after so long."""


def measure(*, small: bool = False) -> dict[str, Any]:
    """All cases, the most telling first."""
    began = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes, context, layer = (SMALL, 64, 1) if small else (FULL, 1024, 12)
    result: dict[str, Any] = {"model": sizes, "context": context, "layer": layer, "cases": [], "notes": []}
    result["difference_to_eager"] = {}
    reference = torch.empty(0)
    result["peak_flop_per_s"] = peak(device, 512 if small else 8192)
    for attention, gradients in ((a, g) for g in (False, True) for a in ATTENTION):
        batches = (2, 4) if small else ((1, 2, 4, 8, 16) if gradients else (4, 8, 16, 32, 64))
        try:
            tap = random_tap(sizes, layer, attention, device, full=gradients)
            fixed = torch.arange(context, device=device)[None] * 7919 % sizes["vocab_size"]
            x = tap.activations(fixed).float()
            if not gradients:
                reference = x if attention == "eager" else reference
                result["difference_to_eager"][attention] = float((x - reference).norm() / reference.norm())
        except Exception as error:
            result["notes"].append(f"{attention} left out: {one_line(error)}")
            continue
        for batch in batches:
            if time.perf_counter() - began > LIMIT_SECONDS:
                result["notes"].append(f"out of time: {attention}, batch {batch}, gradients {gradients}")
                continue
            try:
                case = measure_case(tap, batch, context, gradients, flops_a_token(sizes, layer, context, gradients))
            except torch.OutOfMemoryError as error:
                result["notes"].append(f"{attention}, {batch} contexts, gradients {gradients}: {one_line(error)}")
                break
            except Exception as error:
                result["notes"].append(f"{attention}, {batch} contexts, gradients {gradients}: {one_line(error)}")
                continue
            case = {"attention": attention, "contexts": batch, "gradients": gradients, **case}
            case["share_of_peak"] = case["flop_per_s"] / result["peak_flop_per_s"]
            result["cases"].append(case)
            print(line(case), flush=True)
        del tap
        if device == "cuda":
            torch.cuda.empty_cache()
    result["seconds"] = time.perf_counter() - began
    return result


def random_tap(sizes: dict[str, int], layer: int, attention: str, device: str, *, full: bool) -> Tap:
    """A Gemma-2 with random weights in bfloat16, made on the device; without the blocks above the tap unless `full`."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(**{**sizes, "num_hidden_layers": sizes["num_hidden_layers"] if full else layer + 1})
    config._attn_implementation = attention
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model: Any = Gemma2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    name = f"random Gemma-2, {attention}"
    return Tap(model if full else model.get_decoder(), None, layer, name=name, n_layers=26, full=full)


def measure_case(tap: Tap, batch: int, context: int, gradients: bool, flops: float) -> dict[str, float]:
    """Tokens/s on the device, and with the results copied to the host as a harvest does; peak memory in GiB."""
    cuda = tap.device.type == "cuda"
    tokens = torch.randint(0, tap.vocab_size, (batch, context), device=tap.device)
    host = [torch.empty(batch, context, tap.d_model, dtype=tap.dtype) for _ in range(1 + gradients)]

    def results() -> tuple[Tensor, ...]:
        return tap.gradients(tokens)[:2] if gradients else (tap.activations(tokens),)

    def on_host() -> None:
        for target, made in zip(host, results(), strict=True):
            target.copy_(made)
            made.double().square().sum(-1).cpu()

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(results, cuda))
    memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    with_host = statistics.median(timed(on_host, cuda))
    n = batch * context
    return {
        "tokens_per_s": n / seconds,
        "tokens_per_s_to_host": n / with_host,
        "flop_per_s": n * flops / seconds,
        "peak_gib": memory,
    }


def timed(run: Callable[[], object], cuda: bool, runs: int = 5) -> Iterator[float]:
    """Seconds of each run, after two that are not counted."""
    for i in range(runs + 2):
        wait(cuda)
        began = time.perf_counter()
        run()
        wait(cuda)
        if i >= 2:
            yield time.perf_counter() - began


def wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def peak(device: str, n: int) -> float:
    """FLOP/s of a bfloat16 product of two [n, n]."""
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    return 2.0 * n**3 / statistics.median(timed(lambda: torch.mm(a, b), device == "cuda", 20))


def flops_a_token(sizes: dict[str, int], layer: int, context: int, gradients: bool) -> float:
    """As `dmsae_ray.plan.cost` counts; written again here since that needs packages that a bare machine lacks."""
    d, inner = sizes["hidden_size"], sizes["num_attention_heads"] * sizes["head_dim"]
    weights = (
        2 * d * inner + 2 * d * sizes["num_key_value_heads"] * sizes["head_dim"] + 3 * d * sizes["intermediate_size"]
    )
    attention = 4.0 * inner * (context + 1) / 2
    block = 2.0 * weights + attention
    if not gradients:
        return (layer + 1) * block
    head = 2.0 * sizes["vocab_size"] * d
    layers = sizes["num_hidden_layers"]
    return layers * block + head + (layers - layer - 1) * (2.0 * weights + 2.0 * attention) + head


def line(case: dict[str, Any]) -> str:
    what = "gradients" if case["gradients"] else "activations"
    return (
        f"{what:12}{case['attention']:15}{case['contexts']:4} contexts{case['tokens_per_s']:12,.0f} tokens/s"
        f"{case['tokens_per_s_to_host']:12,.0f} to the host{case['share_of_peak']:7.1%} of peak"
        f"{case['peak_gib']:7.1f} GiB"
    )


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
