"""Trials train while the harvest goes on: the same cores, and one end of both when it fails or is stopped."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from dmsae_ray.config.experiment import load_experiment, parse_experiment
from dmsae_ray.files.folder import Folder
from dmsae_ray.plan.capacity import one_node
from dmsae_ray.plan.fit import trials_at_once, trials_beside_harvest
from dmsae_ray.plan.plan import plan_experiment
from dmsae_ray.store.layout import SPLITS, shard_name
from dmsae_ray.store.token_shards import read_layout, read_tokens
from dmsae_ray.sweep.slots import TrialSlots
from tests.small_sweep import environment, sweep_folder, write_config
from tests.sweep.test_sweep import cores, wait_for_line

ROOT = Path(__file__).parents[2]
COUNTING = Path(__file__).parent / "counting"


def start(mode: str, folder: Path, more: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    config = write_config(folder, resources={"cpus_per_model_actor": 0.25})  # both fit two cores
    return subprocess.Popen(
        [sys.executable, "-u", str(Path(__file__).with_name("slow_harvest.py")), mode, str(folder), str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), **(more or {})},
        cwd=folder,
        start_new_session=True,
    )


def test_trials_begin_before_the_harvest_is_done_find_the_same_cores_and_the_model_runs_once(
    finished_sweep: Path, tmp_path: Path
) -> None:
    """Counted where the model runs, in whichever process."""
    counts = tmp_path / "counts"
    counts.mkdir()
    process = start("goes on", tmp_path, {"PYTHONPATH": str(COUNTING), "DMSAE_TEST_COUNTS": str(counts)})
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert cores(tmp_path) == cores(finished_sweep)
    (store,) = (tmp_path / "runs" / "stores").iterdir()
    assert (store / "manifest.json").exists() and not (store / "heartbeat.json").exists()
    (mark,) = (store / "readers").iterdir()
    assert json.loads(mark.read_text())["beat"] == -1

    seen = Counter(line for file in counts.iterdir() for line in file.read_text().split())
    expected = contexts(store)
    assert all(len(set(of_split)) == len(of_split) for of_split in expected.values())
    # Cycle 0 of both trials is one SAE; the cycles and the control are theirs.
    saes = len([p for p in (tmp_path / "runs" / "cycles").iterdir() if not p.name.startswith(".")])
    assert saes == 1 + 2 * 3
    for split, often in (("train", 1), ("attribution", 1), ("eval", 1 + 2 + saes)):  # harvest; clean, ablated; spliced
        assert {seen[context] for context in expected[split]} == {often}, split
    assert sum(seen.values()) == sum(len(expected[s]) for s in SPLITS) + (2 + saes) * len(expected["eval"])


def contexts(store: Path) -> dict[str, list[str]]:
    """Hashes of the contexts of each split, as `counting` makes them."""
    folder = Folder(str(store))
    layout = read_layout(folder)
    assert layout is not None
    found: dict[str, list[str]] = {}
    for split in SPLITS:
        shards = [read_tokens(folder, layout, shard_name(split, i)).tokens for i in range(layout.shards(split))]
        found[split] = [hashlib.sha256(row.astype("int64").tobytes()).hexdigest() for rows in shards for row in rows]
    return found


def test_a_harvest_that_fails_ends_the_trials_with_its_reason(tmp_path: Path) -> None:
    process = start("fails", tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2, out
    assert out.splitlines()[-1] == "dmsae: error: the GPU fell out"
    assert not any((sweep_folder(tmp_path) / "trials").glob("*/summary.json"))


def test_ctrl_c_ends_both(tmp_path: Path) -> None:
    process = start("hangs", tmp_path)
    wait_for_line(process, "a trial has trained")
    family = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert time.monotonic() - began < 60
    assert psutil.wait_procs(family, timeout=30)[1] == []


# --- how many ---


def test_what_the_harvest_may_need_again_is_never_given_to_trials() -> None:
    demo = plan_experiment(load_experiment(ROOT / "sweeps" / "demo.yaml"))
    # Harvest 0.5, service 0.55, a trial 1.05: two trials fit after the harvest, one beside it.
    for cpus, beside, after in ((2, 0, 1), (2.05, 0, 1), (2.1, 1, 1), (3, 1, 2), (3.2, 2, 2)):
        assert trials_beside_harvest(demo, one_node(cpus)) == beside, cpus
        assert trials_at_once(demo, one_node(cpus)) == after, cpus
    # On two cores, which the embedded cluster counts as three, they would share a core.
    assert trials_beside_harvest(demo, one_node(3), on_paper=1) == 0
    assert trials_beside_harvest(demo, one_node(5), on_paper=1) == 2


def test_the_whole_pool_counts_and_streams_have_none() -> None:
    tree = {
        "name": "x",
        "model": {"name": "tiny", "layer": 1},
        "resources": {"model_actors_max": 4, "gpus_per_model_actor": 1, "gpus_per_worker": 1},
    }
    plan = plan_experiment(parse_experiment(tree))
    assert trials_beside_harvest(plan, one_node(100, 5)) == 0  # pool 4, service 1, nothing left for a trial
    assert trials_beside_harvest(plan, one_node(100, 6)) == 1
    assert "overlap" in plan.text()
    stream = plan_experiment(parse_experiment({**tree, "activations": {"mode": "stream"}}))
    assert trials_beside_harvest(stream, one_node(100, 100)) == 0 and "overlap" not in stream.text()


def test_a_gate_lets_in_as_many_as_there_are_places() -> None:
    gate = TrialSlots(1)
    assert gate.enter("a") is True and gate.enter("a") is True and gate.enter("b") is False
    gate.leave("a")
    assert gate.enter("b") is True and gate.enter("a") is False
    gate.widen(2)
    assert gate.enter("a") is True and gate.enter("c") is False
    gate.leave("b")
    gate.close("the harvest failed")
    assert gate.enter("c") == "the harvest failed"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("figure*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_says_what_overlap_needs(path: Path) -> None:
    assert "while the harvest goes on" in plan_experiment(load_experiment(path)).text()
