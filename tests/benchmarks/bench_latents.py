"""What pages of latents cost at Gemma-2-2B's shape: d = 2304, m = 65,536, a vocabulary of 256,000, 300 latents.

    python tests/benchmarks/bench_latents.py               # 2 threads; results/latents.json

Three parts, each in a process of its own, with its peak memory: the pass over held-out tokens (of --tokens of them,
which are on the disk as a harvest writes them), the reading of the latents' rows from one SAE file, and the promoted
tokens. The pass is proportional to the tokens, the reading to the number of SAEs. All weights are random.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from machine import machine, save

D, M, VOCAB, LATENTS, CONTEXT = 2304, 65_536, 256_000, 300, 1024


def make_store(folder: Path, tokens: int) -> Any:
    import safetensors.numpy
    import torch

    from dmsae_ray.config import ActivationSettings
    from dmsae_ray.files import Folder, checksum, encode_record
    from dmsae_ray.harvest.shard import ActivationShard, pack_shard, write_shard
    from dmsae_ray.store import Layout, Store, shard_name

    place, sums, per_shard = Folder(str(folder)) / "store", {}, 64
    g = torch.Generator().manual_seed(0)
    contexts = tokens // CONTEXT
    for n in range(-(-contexts // per_shard)):
        own, name = min(per_shard, contexts - n * per_shard), shard_name("eval", n)
        ids = torch.randint(0, VOCAB, (own, CONTEXT), generator=g, dtype=torch.int32).numpy()
        content = safetensors.numpy.save({"tokens": ids, "starts": ids[:0, 0]})
        (place / "tokens").write(f"{name}.safetensors", [content])
        sums[name] = checksum(content)
        x = torch.randn(own * CONTEXT, D, generator=g).bfloat16()
        rows = {"x": x, "position": torch.arange(len(x), dtype=torch.int32)}
        content, commit = pack_shard(ActivationShard(rows, {}, 1.0), len(x))
        write_shard(place / "activations", name, content, commit)
    layout = Layout(D, CONTEXT, None, None, (), per_shard, {"eval": contexts, "attribution": 0, "train": 1}, 1, 0, sums)
    (place / "tokens").write("layout.json", [encode_record(asdict(layout))])
    return Store(place, "store", ActivationSettings())


def cut(n_saes: int) -> list[Any]:
    """The latents of a sweep: of several SAEs, dense ones that fire at half of the tokens and sparse ones."""
    import torch

    from dmsae_ray.report.latent_study import Picked
    from dmsae_ray.report.latent_table import LatentRow
    from dmsae_ray.sae import LatentRows

    g, own = torch.Generator().manual_seed(1), LATENTS // n_saes
    rows = tuple(LatentRow(str(n), str(n), n) for n in range(own))
    return [
        Picked(
            rows,
            LatentRows(
                tuple(range(own)),
                torch.randn(own, D, generator=g) / D**0.5,
                torch.zeros(own),
                torch.zeros(D),
                torch.where(torch.arange(own) % 4 == 0, 0.0, 2.0),
                torch.randn(own, D, generator=g),
            ),
        )
        for _ in range(n_saes)
    ]


def firing(folder: Path, tokens: int) -> dict[str, Any]:
    from dmsae_ray.report.latent_study import Wanted, firing_on

    picked, spent = cut(12), {}
    for size in (tokens // 8, tokens):
        store = make_store(folder / str(size), size)
        began, began_cpu = perf_counter(), process_time()
        found = firing_on(store, picked, Wanted())
        spent[size] = perf_counter() - began, process_time() - began_cpu
    (few, few_cpu), (all_, all_cpu) = spent.values()
    million = 1e6 / (tokens - tokens // 8)
    return {
        "tokens": found[0].tokens,
        "seconds": all_,
        "cpu_seconds": all_cpu,
        "mean_frequency": sum(one.frequency for one in found) / len(found),
        "seconds_for_each_further_million_tokens": million * (all_ - few),
        "cpu_seconds_for_each_further_million_tokens": million * (all_cpu - few_cpu),
    }


def reading(folder: Path, tokens: int) -> dict[str, Any]:
    import torch

    from dmsae_ray.files import Folder
    from dmsae_ray.report.latent_source import opened_sae
    from dmsae_ray.sae import latent_rows

    made = "import sys, torch; from dmsae_ray.sae import MatryoshkaSAE, save_sae\n"
    made += f"save_sae(MatryoshkaSAE({D}, {M}, [{M}], 40, core=torch.ones({LATENTS}, {D})), sys.argv[1])"
    subprocess.run([sys.executable, "-c", made, str(folder / "sae")], check=True)
    del torch
    began, began_cpu = perf_counter(), process_time()
    with opened_sae(Folder(str(folder / "sae"))) as (sae, _):
        latent_rows(sae, range(LATENTS))
    return {"seconds_a_sae": perf_counter() - began, "cpu_seconds": process_time() - began_cpu}


def promoted(folder: Path, tokens: int) -> dict[str, Any]:
    import torch
    import transformers

    from dmsae_ray.lm import Unembedding
    from dmsae_ray.report.latent_study import _DIRECTIONS

    config = transformers.Gemma2Config(
        vocab_size=VOCAB, hidden_size=D, num_hidden_layers=1, intermediate_size=64, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    unembedding = Unembedding(transformers.Gemma2ForCausalLM(config))
    torch.set_default_dtype(torch.float32)
    directions = torch.randn(LATENTS, D, generator=torch.Generator().manual_seed(1))
    began, began_cpu = perf_counter(), process_time()
    for part in directions.split(_DIRECTIONS):
        unembedding.extremes(part, 15)
    return {"seconds": perf_counter() - began, "cpu_seconds": process_time() - began_cpu}


PARTS = {"firing": firing, "reading": reading, "promoted": promoted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help="this part alone, in this process")
    args = parser.parse_args()
    if args.part:
        import torch

        torch.set_num_threads(args.threads)
        with tempfile.TemporaryDirectory(prefix="dmsae-bench-") as folder:
            found = PARTS[args.part](Path(folder), args.tokens)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({**found, "peak_gb": peak}))
        return
    result: dict[str, Any] = {"machine": machine(), "threads": args.threads, "latents": LATENTS, "d": D, "m": M}
    for part in PARTS:
        command = [
            sys.executable,
            __file__,
            "--part",
            part,
            "--tokens",
            str(args.tokens),
            "--threads",
            str(args.threads),
        ]
        env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        result[part] = json.loads(done.stdout.splitlines()[-1])
        print(part, json.dumps(result[part]))
    print(save("latents", result))


if __name__ == "__main__":
    main()
