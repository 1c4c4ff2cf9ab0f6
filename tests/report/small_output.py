"""A small output folder, made without Ray: a store over hostile text, real cycles of two seeds, and their sweep."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from dmsae_ray.config.sections import ActivationSettings
from dmsae_ray.corpus.contexts import Packer, loss_mask
from dmsae_ray.distill.core import save_core
from dmsae_ray.distill.cycle_runner import CycleRunner
from dmsae_ray.distill.cycle_settings import CycleSettings
from dmsae_ray.distill.cycle_store import DirectoryCycleStore
from dmsae_ray.distill.cycles import run_cycles
from dmsae_ray.feed.feed import Feed
from dmsae_ray.files.checksums import checksum
from dmsae_ray.files.folder import Folder
from dmsae_ray.files.json_records import encode_record
from dmsae_ray.harvest.shard import compute_shard, pack_shard, write_shard
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.store.layout import Layout, shard_name
from dmsae_ray.store.reader import Store

HOSTILE = (
    "</script><script>alert('out')</script>",
    "<!-- <script> -->",
    "<img src=x onerror=alert(1)>",
    "\u2028line\u2029separators",
    "\u202ereversed\x07 \x00nul",
    "naïve “日本語” \U0001f642",
    'a "quoted" \\ back `tick` ${x}',
    "\n\n    def f(self):\n\treturn self.x",
    "The value of the argument is returned; if there is none, an error is raised.",
)
CONTEXT, PER_SHARD = 32, 10
SPLITS = {"eval": 24, "attribution": 10, "train": 40}
SAE = CycleSettings(
    n_latents=96,
    group_sizes=(32, 64),
    k=4,
    recipe=Recipe(steps=30, lr=3e-3, warmup_steps=2, threshold_start_step=5, threshold_beta=0.8),
    batch_size=64,
    steps=30,
)
ABOUT: dict[str, Any] = {"model": "tiny", "revision": None, "layer": 1, "context": CONTEXT, "corpus": "hostile"}


def make_store(stores: Path, key: str = "a" * 24, *, layer: int = 1, text_seed: int = 0, **filters: Any) -> Store:
    """A store as a harvest writes it, of texts that a page must not take for markup."""
    tap = load_tap("tiny", layer, "cpu", "float32")
    random = np.random.default_rng(text_seed)
    packer = Packer(CONTEXT, tap.bos_id, tap.eos_id)
    texts = [" ".join(random.choice(HOSTILE, 6)) for _ in range(200)]
    ids = [np.array(tap.tokenizer.encode(text, add_special_tokens=False), np.int32) for text in texts]
    contexts = packer.add(np.concatenate(ids), np.array([len(i) for i in ids], np.int32))
    folder, sums, first = Folder(str(stores)) / key, {}, 0
    settings = ActivationSettings(dtype="float32", **filters)
    for split, n in SPLITS.items():
        for shard in range(-(-n // PER_SHARD)):
            own = contexts[slice(first, first := first + min(PER_SHARD, n - shard * PER_SHARD))]
            name = shard_name(split, shard)
            content = safetensors.numpy.save({"tokens": own.tokens, "starts": own.starts})
            (folder / "tokens").write(f"{name}.safetensors", [content])
            sums[name] = checksum(content)
            tokens, mask = torch.from_numpy(own.tokens).long(), torch.from_numpy(loss_mask(own, True))
            rows = compute_shard(tap, tokens, mask, settings, batch_tokens=512, split=split, shard=shard)
            write_shard(folder / "activations", name, *pack_shard(rows, tokens.numel()))
    layout = Layout(tap.d_model, CONTEXT, tap.bos_id, tap.eos_id, tap.special_ids, PER_SHARD, SPLITS, 200, 0, sums)
    (folder / "tokens").write("layout.json", [encode_record(asdict(layout))])
    request = {"model": {"name": "tiny", "layer": layer}, "corpus": {"path": "hostile"}}
    (folder).write("request.json", [json.dumps(request).encode()])
    return Store(folder, key, settings)


def make_output(output: Path) -> Path:
    """An output folder with a store and a sweep of one setting with two seeds; return the sweep's folder."""
    store = make_store(output / "stores")
    sweep = output / "sweeps" / "small-00000000"
    for seed in (0, 1):
        kept = DirectoryCycleStore(output / "cycles", ABOUT)
        runner = CycleRunner(SAE, Feed(store, SAE.batch_size, seed=0), store=kept)
        result = run_cycles(runner, cycles=2, coverage=0.6, seed=seed)
        folder = sweep / "trials" / f"k4-tau0.6-seed{seed}"
        save_core(result.distilled, folder / "core.safetensors")
        params = {"k": 4, "coverage": 0.6, "seed": seed, "data_seed": 0, "core_sparsity": "dense"}
        summary = {"trial_id": folder.name, "params": params, **result.summary()}
        (folder / "summary.json").write_text(json.dumps(summary))
    return sweep


@pytest.fixture(scope="session")
def small_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's folder; tests do not write there."""
    return make_output(tmp_path_factory.mktemp("latents"))
