"""A finished sweep with its config, made without Ray, and another whose trials are transfers around its core."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmsae_ray.config.experiment import Experiment, load_experiment
from dmsae_ray.distill.controls import random_core
from dmsae_ray.distill.core import load_core
from dmsae_ray.distill.core_transfer import transfer
from dmsae_ray.distill.cycle_runner import CycleRunner
from dmsae_ray.distill.cycle_store import DirectoryCycleStore
from dmsae_ray.distill.cycles import run_cycles
from dmsae_ray.evaluation.metrics import evaluate
from dmsae_ray.feed.feed import Feed
from dmsae_ray.plan.trials import CycleSetting, TransferSetting, Trial
from dmsae_ray.results.folders import Folders, create_folders
from dmsae_ray.store.reader import Store
from dmsae_ray.store.sae_note import note_of
from tests.report.small_output import CONTEXT, SAE, make_store
from tests.small_sweep import write_config

TRIAL, ARM = "k4-tau0.6-seed0", "k4-dense-distilled-seed7"
PRIVATE = "nobody's-business"
"""A folder of the machine that trains; its name must be in no published file."""
RECIPE = {"tokens": 1920, "batch_size": 64, "lr": 3e-3, "warmup_steps": 2, "threshold_start_step": 5}


@dataclass(frozen=True)
class Sweeps:
    """The folders of both sweeps, and the store key."""

    cycles: Path
    transfers: Path
    store: str


def config(home: Path, name: str, **sections: Any) -> Experiment:
    """An experiment on private text; its output is `home`/runs."""
    text = home / PRIVATE / "texts.txt"
    text.parent.mkdir(exist_ok=True)
    text.write_text("text\n")
    path = write_config(
        home,
        name=name,
        output=str(home / "runs"),
        corpus={"source": "text", "path": str(text), "context": CONTEXT, "tokens": 2000},
        sae={"n_latents": 96, "group_sizes": [32, 64], "k": 4},
        recipe=RECIPE,
        distill={"cycles": 2, "coverage": 0.6},
        sweep={"coverage": None, "seeds": [0, 1]},
        tracking={"uri": f"sqlite:///{home}/{PRIVATE}/mlflow.db"},
        **sections,
    )
    return load_experiment(path)


def runner_of(experiment: Experiment, folders: Folders, store: Store) -> CycleRunner:
    kept = DirectoryCycleStore(folders.cycles, note_of(experiment, store.key, store.layout))
    feed = Feed(store, SAE.batch_size, seed=0)
    return CycleRunner(SAE, feed, store=kept, evaluate=lambda sae: evaluate(sae, feed.evaluation()).floats())


def make_sweeps(home: Path) -> Sweeps:
    """Two seeds of three cycles with a control; two arms around the first one's core."""
    store = make_store(home / "runs" / "stores")
    experiment = config(home, "small")
    folders = create_folders(experiment)
    for seed in (0, 1):
        trial = Trial(CycleSetting(4, 0.6, "dense"), seed, 0)
        result = run_cycles(
            runner_of(experiment, folders, store), cycles=2, coverage=0.6, seed=seed, controls=("gaussian",)
        )
        folders.publish_trial(trial, result.summary(), result.distilled)
    place = folders.sweep / "trials" / TRIAL / "core.safetensors"
    moved = config(home, "moved", transfer={"core": str(place), "arms": ["distilled", "gaussian"]})
    around = create_folders(moved)
    for arm in ("distilled", "gaussian"):
        core = load_core(place) if arm == "distilled" else random_core(arm, load_core(place), 3)
        done = transfer(runner_of(moved, around, store), core, seed=7, coverage=0.6, arm=arm)
        found = {"records": [done.report.as_dict()], "tokens": done.report.tokens, "flops": done.report.flops}
        around.publish_trial(Trial(TransferSetting(4, arm, "dense"), 7, 0), found, None)
    return Sweeps(folders.sweep, around.sweep, store.key)


def edit_summary(sweep: Path, trial: str, **changes: Any) -> None:
    path = sweep / "trials" / trial / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()
