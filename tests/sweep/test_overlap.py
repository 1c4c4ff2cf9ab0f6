"""Trials train while the harvest goes on: the same cores, and one end of both when it fails or is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dmsae_ray.config import load_experiment, parse_experiment
from dmsae_ray.sweep.capacity import one_node
from dmsae_ray.sweep.gate import Gate
from dmsae_ray.sweep.plan import plan_experiment, trials_at_once, trials_beside_harvest
from tests.sweep.conftest import dmsae, environment, sweep_folder, write_config
from tests.sweep.test_sweep import cores, wait_for_line

ROOT = Path(__file__).parents[2]


def start(mode: str, folder: Path) -> "subprocess.Popen[str]":
    config = write_config(folder, resources={"cpus_per_model_actor": 0.25})  # both fit two cores
    return subprocess.Popen(
        [sys.executable, "-u", str(Path(__file__).with_name("slow_harvest.py")), mode, str(folder), str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=folder,
        start_new_session=True,
    )


def test_a_trial_trains_before_the_harvest_is_done_and_finds_the_same_core(
    finished_sweep: Path, tmp_path: Path
) -> None:
    process = start("goes on", tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert cores(tmp_path) == cores(finished_sweep)
    (store,) = (tmp_path / "runs" / "stores").iterdir()
    assert (store / "manifest.json").exists() and not (store / "heartbeat.json").exists()
    (mark,) = (store / "readers").iterdir()
    assert json.loads(mark.read_text())["beat"] == -1


def test_a_harvest_that_fails_ends_the_trials_with_its_reason(tmp_path: Path) -> None:
    process = start("fails", tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2, out
    assert out.splitlines()[-1] == "dmsae: error: the GPU fell out"
    assert not any((sweep_folder(tmp_path) / "trials").glob("*/summary.json"))


def test_ctrl_c_ends_both_and_the_same_command_goes_on(finished_sweep: Path, tmp_path: Path) -> None:
    process = start("hangs", tmp_path)
    wait_for_line(process, "a trial has trained")
    family = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert time.monotonic() - began < 60
    assert psutil.wait_procs(family, timeout=30)[1] == []
    done = dmsae("sweep", tmp_path / "experiment.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cores(tmp_path) == cores(finished_sweep)


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
    gate = Gate(1)
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
