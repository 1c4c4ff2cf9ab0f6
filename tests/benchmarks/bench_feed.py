"""Bytes a second from a store into a training process, against reading the raw bytes; and how long training waits.

    python tests/benchmarks/bench_feed.py            # a 2.4 GB store of Gemma-2-2B's width; results/feed.json

raw: numpy memmap of each shard's file in turn, copied in pieces of a batch's size: sequential, unchecked, unshuffled,
each piece into memory of its own, of which the last four are kept, as a reader that works ahead keeps them. Also: into
the same, cached, memory again and again, which no training can use; and rows in a random order. One thread each.
feed: shuffled batches of 2048 rows over windows of 16 shards, first with every checksum verified, then again.
All from the page cache: what is measured is what the feed costs, not the disk. Runs are interleaved; medians are given
in wall-clock time and, because other work disturbs that, in CPU time of the process, all of its threads together.
"""

import argparse
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import interleaved, machine, save

from dmsae_ray.config.sections import ActivationSettings
from dmsae_ray.feed.feed import Feed
from dmsae_ray.files.folder import Folder
from dmsae_ray.files.json_records import encode_record
from dmsae_ray.files.node_cache import NodeCache
from dmsae_ray.harvest.shard import ActivationShard, pack_shard, write_shard
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.trainer import SAETrainer
from dmsae_ray.store.int8 import quantise
from dmsae_ray.store.layout import ACTIVATIONS, LAYOUT, MANIFEST, TOKENS, Layout
from dmsae_ray.store.reader import Store

D, CONTEXT, BATCH = 2304, 1024, 2048


def make_store(root: Path, dtype: str, shards: int, rows: int) -> Store:
    """Gaussian rows with unequal columns, through the same writer as a harvest's."""
    folder = Folder(str(root / dtype))
    layout = Layout(
        D,
        CONTEXT,
        2,
        1,
        (),
        rows // CONTEXT,
        {"eval": 0, "attribution": 0, "train": shards * rows // CONTEXT},
        1,
        0,
        {},
    )
    columns = torch.rand(D) * 4
    commits = []
    for i in range(shards):
        x = (torch.randn(rows, D, generator=torch.Generator().manual_seed(i)) * columns).bfloat16()
        tensors = {"x": x, "position": torch.arange(rows, dtype=torch.int32)}
        if dtype == "int8":
            tensors.update(quantise(x))
        packed = pack_shard(ActivationShard(tensors, {}, float(rows)), rows)
        commits.append(write_shard(folder / ACTIVATIONS, f"train-{i:06d}", *packed))
    (folder / TOKENS).write(LAYOUT, [encode_record(layout)])
    listed = {"eval": [], "attribution": [], "train": [vars(commit) for commit in commits]}
    folder.write(MANIFEST, [encode_record({"shards": listed})])
    return open_again(folder, dtype)


def open_again(folder: Folder, dtype: Any, cache: NodeCache | None = None) -> Store:
    """A reader that has verified nothing yet."""
    return Store(folder, f"bench-{dtype}", ActivationSettings(dtype=dtype, shuffle_shards=16), cache=cache)


def raw(files: list[Path], keep: int) -> float:
    total = 0
    kept: deque[Any] = deque(maxlen=keep)
    for file in files:
        content = np.memmap(file, dtype=np.uint8, mode="r")
        piece = BATCH * D * 2
        for start in range(0, len(content), piece):
            copied = np.array(content[start : start + piece])
            total += copied.nbytes
            kept.append(copied)
            del copied
    return total / 1e6


def raw_shuffled(files: list[Path]) -> float:
    """Rows at random places of each file in turn, by numpy's indexing: what any shuffling reader pays for memory."""
    total, rng = 0, np.random.default_rng(0)
    for file in files:
        content = np.memmap(file, dtype=np.int16, mode="r", offset=os.path.getsize(file) % (2 * D))
        rows = content.reshape(-1, D)
        order = rng.permutation(len(rows))
        for start in range(0, len(rows), BATCH):
            total += rows[order[start : start + BATCH]].nbytes
    return total / 1e6


def feed(store: Store, steps: int, start: int = 0) -> float:
    """MB of activations as bfloat16 [n, D], whatever dtype they are stored in."""
    rows = 0
    for x in Feed(store, BATCH, seed=0).batches(start, start + steps):
        rows += len(x)
    return rows * D * 2 / 1e6


def waiting(store: Store, step_ms: float, steps: int) -> float:
    """Share of the time that a device which takes `step_ms` a step waits for its batch, windows changing included."""
    waited, began = 0.0, None
    batches = Feed(store, BATCH, seed=0).batches(0, steps + 1)
    next(batches)
    began = time.perf_counter()
    for _ in range(steps):
        time.sleep(step_ms / 1e3)
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
    batches.close()  # type: ignore[attr-defined]
    return waited / (time.perf_counter() - began)


def training(store: Store, steps: int, latents: int) -> dict[str, float]:
    """A real training on this CPU: share of the time that it waits for data."""
    sae = MatryoshkaSAE(D, latents, [latents // 4, latents // 4, latents // 2], 32)
    trainer = SAETrainer(sae, Recipe(steps=steps + 2, warmup_steps=1, threshold_start_step=0))
    waited = 0.0
    batches = Feed(store, BATCH, seed=0).batches(0, steps + 1)
    next(batches)
    began = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        x = next(batches)
        waited += time.perf_counter() - asked
        trainer.step(x.to(torch.float32) / 50)
    total = time.perf_counter() - began
    return {"step_ms": 1e3 * (total - waited) / steps, "waiting": waited / total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine(), "d_model": D, "batch": BATCH, **vars(args)}
    steps = args.shards * args.rows // BATCH
    with tempfile.TemporaryDirectory(prefix="dmsae-bench-") as folder:
        stores = {dtype: make_store(Path(folder), dtype, args.shards, args.rows) for dtype in ("bfloat16", "int8")}
        store = stores["bfloat16"]
        files = sorted((Path(folder) / "bfloat16" / ACTIVATIONS).glob("*.safetensors"))
        runs = {
            "raw": lambda: raw(files, 4),
            "raw, the same memory": lambda: raw(files, 0),
            "raw, shuffled rows": lambda: raw_shuffled(files),
            "feed, first pass": lambda: feed(open_again(store.folder, "bfloat16"), steps),
            "feed, later passes": lambda: feed(store, steps),
            "feed of int8": lambda: feed(stores["int8"], steps),
        }
        measured = interleaved(runs, args.rounds)
        result["mb_per_s"] = measured
        result["ratio_to_raw"] = {
            name: {clock: measured[name][clock] / measured["raw"][clock] for clock in ("wall", "best", "cpu")}
            for name in runs
            if name != "raw"
        }
        result["waiting_of_a_device"] = {
            f"{ms} ms a step": waiting(open_again(store.folder, "bfloat16"), ms, steps - 1) for ms in (10, 20)
        }
        result["waiting_of_a_cpu_training"] = training(open_again(store.folder, "bfloat16"), 20, 1024)
    print(f"{'':22}{'MB/s':>8}{'of raw':>8}{'best':>8}{'CPU time':>10}")
    for name in runs:
        ratio = result["ratio_to_raw"].get(name, dict.fromkeys(("wall", "best", "cpu"), 1.0))
        print(f"{name:22}{measured[name]['wall']:8.0f}{ratio['wall']:8.2f}{ratio['best']:8.2f}{ratio['cpu']:10.2f}")
    for what, share in result["waiting_of_a_device"].items():
        print(f"waiting for data, device of {what}: {share:.1%}")
    print(f"waiting for data, training on this CPU: {result['waiting_of_a_cpu_training']['waiting']:.1%}")
    print(save("feed", result))


if __name__ == "__main__":
    main()
