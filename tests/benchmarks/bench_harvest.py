"""Tokens a second that a harvest through Ray Data and the store makes with one actor, against a bare loop.

    python tests/benchmarks/bench_harvest.py            # a Gemma-2 of d=512 on the CPU; results/harvest.json
    python tests/benchmarks/bench_harvest.py --cuda     # Gemma-2-2B's size on a GPU, see harvest_cuda.py

bare: `Tap.activations` of the same model, cut off above the tap, on the same tokens in the same batches, one thread,
in this process; nothing is kept. It runs beside the main thread, as in the actor: in the main one the C library gives
memory back after each layer, and page faults cost 7%. harvest: the same with filters, norms, packing, checksum, files,
commits, Ray Data. The start of Ray, of the actor and of the model is left out: the clock runs from the commit of the
first training shard to that of the last, and counts the tokens of those between (the last included). The two take
turns; medians of the wall clock and, because other work disturbs that, of CPU time of the process that hosts the model,
all its threads together.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))


def make_model(folder: Path, d: int, layers: int) -> None:
    """A Gemma-2 with random weights and the embedded model's tokenizer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from dmsae_ray.lm.tiny import tiny_model

    torch.manual_seed(0)
    config = Gemma2Config(
        hidden_size=d,
        num_hidden_layers=layers,
        num_attention_heads=d // 128,
        num_key_value_heads=max(1, d // 256),
        head_dim=128,
        intermediate_size=4 * d,
        vocab_size=1024,
    )
    Gemma2ForCausalLM(config).save_pretrained(folder)
    for file in tiny_model().glob("*token*"):
        shutil.copy(file, folder)


def bare(experiment: Any, store: Any) -> dict[str, float]:
    """Seconds a token of the loop over two shards of tokens."""
    from dmsae_ray.harvest.model import open_tap
    from dmsae_ray.store.layout import shard_name
    from dmsae_ray.store.token_shards import read_layout, read_tokens

    tap = open_tap(experiment.model, full=False)
    layout = read_layout(store)
    step = experiment.resources.model_batch_tokens // layout.context
    shards = [torch.from_numpy(read_tokens(store, layout, shard_name("train", i)).tokens).long() for i in range(2)]
    count = sum(tokens.numel() for tokens in shards)

    def loop() -> dict[str, float]:
        for batch in shards[0].split(step):  # the thread's first pass also asks for its memory
            tap.activations(batch)
        began, began_cpu = time.perf_counter(), time.process_time()
        for tokens in shards:
            for batch in tokens.split(step):
                tap.activations(batch)
        return {"wall": (time.perf_counter() - began) / count, "cpu": (time.process_time() - began_cpu) / count}

    with ThreadPoolExecutor(1) as beside:
        return beside.submit(loop).result()


def harvested(experiment: Any, folder: Any, tokens: Path) -> dict[str, float]:
    """Seconds a token between the first commit of a training shard and the last.

    A thread looks for commits where they are written: what the driver is told comes late and in bunches.
    """
    from dmsae_ray.harvest.harvesting import harvest
    from dmsae_ray.store.token_shards import read_layout

    shutil.rmtree(folder.uri, ignore_errors=True)
    shutil.copytree(tokens, Path(folder.uri) / "tokens")
    layout = read_layout(folder)
    seen: list[tuple[float, float]] = []  # of each commit: when, and the actor's CPU time by then
    shards, done = layout.shards("train"), threading.Event()

    def look() -> None:
        while len(seen) < shards and not done.wait(0.02):
            there = len(list((Path(folder.uri) / "activations").glob("train-*.json")))
            if there > len(seen):
                seen.extend([(time.perf_counter(), actor_cpu())] * (there - len(seen)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        harvest(folder, experiment, layout)
    finally:
        watcher.join(5)
        done.set()
    count = sum(layout.shard_tokens("train", shard) for shard in range(1, shards))
    return {"wall": (seen[-1][0] - seen[0][0]) / count, "cpu": (seen[-1][1] - seen[0][1]) / count}


def actor_cpu() -> float:
    """CPU seconds of the process that hosts the model, all its threads."""
    import psutil

    times = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "HarvestActor" in " ".join(process.cmdline()):
                times += sum(process.cpu_times()[:2])
        except psutil.Error:
            continue
    return times


def on_cpu(rounds: int, d: int, layers: int, tokens: int) -> None:
    """Both, in turn."""
    import ray
    from machine import machine, save

    from dmsae_ray.config.experiment import parse_experiment
    from dmsae_ray.files.folder import Folder
    from dmsae_ray.harvest.tokenising import write_tokens

    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    with tempfile.TemporaryDirectory(prefix="dmsae-bench-") as temporary:
        root = Path(temporary)
        make_model(root / "model", d, layers)
        experiment = parse_experiment(
            {
                "name": "bench",
                "model": {"name": str(root / "model"), "layer": layers * 2 // 3 - 1, "dtype": "float32"},
                "corpus": {
                    "source": "stdlib",
                    "context": 128,
                    "tokens": tokens,
                    "attribution_tokens": 128,
                    "eval_tokens": 128,
                },
                "activations": {"shard_tokens": 8192, "norm_tokens": 8192},
                "recipe": {"tokens": 4096, "batch_size": 256, "warmup_steps": 1, "threshold_start_step": 0},
                "resources": {"model_batch_tokens": 2048},
            }
        )
        made = Folder(str(root / "tokenised"))
        write_tokens(made, experiment)
        runs: dict[str, list[dict[str, float]]] = {"bare": [], "harvest": []}
        for i in range(rounds + 1):
            found = {
                "bare": bare(experiment, made),
                "harvest": harvested(experiment, Folder(str(root / "store")), root / "tokenised" / "tokens"),
            }
            for name, seconds in found.items():
                runs[name] += [seconds] if i else []
    per_s = {
        name: {clock: 1 / statistics.median(run[clock] for run in of) for clock in ("wall", "cpu")}
        | {"best": 1 / min(run["wall"] for run in of)}
        for name, of in runs.items()
    }
    ratio = {clock: per_s["harvest"][clock] / per_s["bare"][clock] for clock in ("wall", "best", "cpu")}
    result = {"machine": machine(), "d_model": d, "layers": layers, "tokens": tokens, "rounds": rounds}
    print(f"{'':10}{'tokens/s':>10}{'best':>10}{'by CPU time':>14}")
    for name, rates in per_s.items():
        print(f"{name:10}{rates['wall']:10.0f}{rates['best']:10.0f}{rates['cpu']:14.0f}")
    print(f"{'ratio':10}{ratio['wall']:10.2f}{ratio['best']:10.2f}{ratio['cpu']:14.2f}")
    print(save("harvest", {**result, "tokens_per_s": per_s, "harvest_to_bare": ratio}))


def on_cuda(small: bool, out: Path) -> None:
    """On a bare machine: no Ray, no MLflow."""
    import json

    import harvest_cuda

    result = harvest_cuda.measure(small=small)
    result["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    result["torch"] = torch.__version__
    for note in result["notes"]:
        print("note:", note)
    out.mkdir(parents=True, exist_ok=True)
    path = out / ("harvest_cuda_small.json" if small else "harvest_cuda.json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--small", action="store_true", help="with --cuda: a tiny model, on any device")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="with --cuda: result folder"
    )
    args = parser.parse_args()
    if args.cuda:
        on_cuda(args.small, args.out)
    else:
        on_cpu(args.rounds, args.width, args.layers, args.tokens)


if __name__ == "__main__":
    main()
