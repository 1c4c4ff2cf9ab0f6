"""Runs a function on several processes joined in a gloo group, and returns what each returned or raised."""

import os
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _work(rank, size, folder, function, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    try:
        result = ("returned", function(rank, dist.group.WORLD, *arguments))
    except Exception as error:
        result = ("raised", f"{type(error).__name__}: {error}", traceback.format_exc())
    torch.save(result, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # a group still referenced (by a traceback) when the interpreter ends makes gloo abort the process


def on_ranks(size, folder, function, *arguments):
    Path(folder).mkdir(parents=True, exist_ok=True)
    mp.spawn(_work, (size, str(folder), function, arguments), nprocs=size, join=True)
    return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(size)]
