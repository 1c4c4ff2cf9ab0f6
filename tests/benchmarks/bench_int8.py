"""What int8 costs: FVU of SAEs trained on rows as `activations.dtype: int8` stores them, against bfloat16.

    python tests/benchmarks/bench_int8.py            # 400,000 rows of the tiny Gemma-2; results/int8.json

Activations of real text behind block 1. Both stores' rows pass through the code that stores and reads them, in shards;
the SAEs of a seed have the same weights at first and the same batches; all are measured on the same held-out bfloat16
rows, as in a sweep. float32 rows and a second seed are there to compare with: what rounding and chance do.
"""

import argparse
import statistics
from typing import Any

import torch
from machine import machine, save
from torch import Tensor

from dmsae_ray.evaluation.metrics import evaluate
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.lm.text import split_documents, stdlib_documents
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.trainer import SAETrainer
from dmsae_ray.store.int8 import dequantise, quantise

CONTEXT, BATCH, HELD_OUT, SHARD = 64, 512, 32_768, 16_384
ALLOWED = 0.002


@torch.no_grad()
def activations(rows: int) -> Tensor:
    """Float32 [rows, 64] of the tiny model behind block 1, BOS left out, in a random order."""
    tap = load_tap("tiny", 1, "cpu", "float32", full=False)
    trained, held_out = split_documents(stdlib_documents())
    ids = [token for text in held_out + trained for token in tap.tokenizer(text, add_special_tokens=False)["input_ids"]]
    body = CONTEXT - 1
    n = min(len(ids) // body, -(-rows // body))
    tokens = torch.full((n, CONTEXT), tap.bos_id)
    tokens[:, 1:] = torch.tensor(ids[: n * body]).view(n, body)
    x = torch.cat([tap.activations(part)[:, 1:].reshape(-1, tap.d_model) for part in tokens.split(64)])
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))][:rows]


def stored(x: Tensor, dtype: str) -> Tensor:
    """Rows as a trainer gets them from a store of this dtype, float32."""
    if dtype == "float32":
        return x
    x = x.bfloat16()
    if dtype == "bfloat16":
        return x.float()
    return torch.cat([dequantise(quantise(shard)) for shard in x.split(SHARD)])


def trained_fvu(x: Tensor, held_out: Tensor, *, n_latents: int, k: int, steps: int, seed: int) -> float:
    """FVU on `held_out` of an SAE trained on `x`."""
    norm = float(x.double().square().sum(1).mean().sqrt())
    groups = [n_latents // 16, n_latents // 8, n_latents // 4, n_latents - 7 * n_latents // 16]
    sae = MatryoshkaSAE(x.shape[1], n_latents, groups, k, seed=seed)
    sae.norm_factor = norm
    recipe = Recipe(
        steps=steps,
        lr=2e-3,
        warmup_steps=steps // 10,
        dead_after_tokens=50_000,
        threshold_beta=0.99,
        threshold_start_step=steps // 4,
    )
    trainer = SAETrainer(sae, recipe)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        trainer.step(x[torch.randint(len(x), (BATCH,), generator=order)] / norm)
    return evaluate(sae.folded(), held_out.split(4096)).fvu


def compare(rows: int, seeds: int, settings: list[tuple[int, int]], steps: int) -> dict[str, Any]:
    """FVU by dtype, setting (n_latents, k) and seed; how far int8 is from bfloat16."""
    x = activations(rows + HELD_OUT)
    held_out, x = stored(x[:HELD_OUT], "bfloat16"), x[HELD_OUT:]
    by_dtype = {dtype: stored(x, dtype) for dtype in ("float32", "bfloat16", "int8")}
    error = (by_dtype["int8"] - x).square().sum() / (x - x.mean(0)).square().sum()
    found = []
    for n_latents, k in settings:
        fvu = {
            dtype: [trained_fvu(y, held_out, n_latents=n_latents, k=k, steps=steps, seed=seed) for seed in range(seeds)]
            for dtype, y in by_dtype.items()
        }
        change = [a - b for a, b in zip(fvu["int8"], fvu["bfloat16"], strict=True)]
        found.append({"n_latents": n_latents, "k": k, "fvu": fvu, "int8_minus_bfloat16": change})
        print(n_latents, k, {d: [round(v, 5) for v in vs] for d, vs in fvu.items()}, flush=True)
    changes = [value for setting in found for value in setting["int8_minus_bfloat16"]]
    return {
        "rows": len(x),
        "steps": steps,
        "unexplained_by_rounding": float(error),
        "settings": found,
        "mean_change": statistics.mean(changes),
        "largest_change": max(changes, key=abs),
        "allowed": ALLOWED,
    }


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    result = compare(args.rows, args.seeds, [(1024, 8), (1024, 16)], args.steps)
    path = save("int8", {"machine": machine(), **result})
    print(
        f"{path}: int8 changes FVU by {result['mean_change']:+.5f} on average, {result['largest_change']:+.5f} at most"
    )


if __name__ == "__main__":
    main()
