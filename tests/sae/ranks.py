"""What each process of a data-parallel test does."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dmsae_ray.sae.ranks import RankGroup
from dmsae_ray.sae.selection import BatchTopK
from dmsae_ray.sae.trainer import SAETrainer

from .worlds import as_on_cuda, features, make_sae, recipe

SIZE = 4


def _run(rank: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=SIZE)
    torch.save(work(rank, *arguments), f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo may abort a process whose groups are still referenced when the interpreter ends


def on_four_ranks(folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    mp.spawn(_run, (str(folder), work, arguments), nprocs=SIZE, join=True)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(SIZE)]


def shares(rows: int, size: int) -> list[int]:
    """Unequal parts: the first rank gets most, the last may get nothing."""
    cuts = [rows * (size - r) ** 2 // size**2 for r in range(size)] + [0]
    return [cuts[r] - cuts[r + 1] for r in range(size)]


def train(rank: int | None, size: int, options: dict[str, Any], rows: int, group: Any = None) -> dict[str, Any]:
    """20 steps; rank None is one process on whole batches. Option as_on_cuda: ranks select as they do on CUDA."""
    options = dict(options)
    other_path = options.pop("as_on_cuda", False) and rank is not None
    trainer = SAETrainer(make_sae(**options), recipe(), process_group=group)
    if other_path:
        as_on_cuda(trainer)
    stats = []
    for step in range(20):
        x = features(rows, 12, step)
        if rank is not None:
            x = x.split(shares(rows, size))[rank]
        stats.append(trainer.step(x).floats())
    state = {name: tensor.clone() for name, tensor in trainer.sae.state_dict().items()}
    return {"state": state, "stats": stats, "silent": trainer.state_dict()["silence"]["tokens"]}


def selected(rank: int | None, size: int, group: Any = None) -> list[set[tuple[int, int, float]]]:
    """Selections over batches with many ties: {(global row, latent, value)}."""
    found = []
    select = BatchTopK(RankGroup(group), torch.device("cpu"))
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        rows = 1 + seed * 5
        x, W = torch.randn(rows, 3, generator=g).round(), torch.randn(20, 3, generator=g).round()
        first = 0
        if rank is not None:
            parts = shares(rows, size)
            first, x = sum(parts[:rank]), x.split(parts)[rank]
        kept = select.select(x, W, torch.zeros(20), 0, rows * 3)
        triples = zip((kept.rows + first).tolist(), kept.latents.tolist(), kept.values.tolist(), strict=True)
        found.append(set(triples))
    return found


def everything(rank: int, cases: list[tuple[dict[str, Any], int]]) -> dict[int, Any]:
    """All that the tests look at, for groups of 1, 2 and 4 of the four ranks."""
    results: dict[int, Any] = {}
    for size in (1, 2, 4):
        group = dist.new_group(list(range(size)))
        if rank < size:
            trained = [train(rank, size, options, rows, group) for options, rows in cases]
            results[size] = {"trained": trained, "selected": selected(rank, size, group)}
    return results
