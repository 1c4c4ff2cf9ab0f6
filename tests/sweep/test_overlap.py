"""Trials train while the harvest goes on: the same cores, and one end of both when it fails or is stopped."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from dmsae_ray.config.experiment import load_experiment, parse_experiment
from dmsae_ray.plan.capacity import one_node
from dmsae_ray.plan.fit import trials_at_once, trials_beside_harvest
from dmsae_ray.plan.plan import plan_experiment
from dmsae_ray.plan.rendering import plan_text
from tests.small_sweep import TRIALS, Here, cores, dmsae, sweep_folder, write_config
from tests.sweep.slow_harvest import hold_back
from tests.terminal import INTERRUPT, OnTerminal

Slow = Callable[..., Path]
ONE: dict[str, Any] = {"coverage": [0.3]}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Make a harvest of this process stop before its sixth training shard until a trial has trained; then as told."""

    def set_up(then: str, **sections: Any) -> Path:
        hold_back(monkeypatch.setattr, tmp_path / "trained", then)
        return write_config(tmp_path, resources={"cpus_per_model_actor": 0.25}, **sections)

    return set_up


@pytest.mark.sweep
def test_trials_begin_before_the_harvest_is_done_and_find_the_same_cores(
    finished_sweep: Path, tmp_path: Path, slow: Slow, dmsae_here: Here
) -> None:
    done = dmsae_here("sweep", slow("goes on"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "trained").exists()
    assert cores(tmp_path) == cores(finished_sweep)
    (store,) = (tmp_path / "runs" / "stores").iterdir()
    assert (store / "manifest.json").exists() and not (store / "heartbeat.json").exists()
    (mark,) = (store / "readers").iterdir()
    assert json.loads(mark.read_text())["beat"] == -1


@pytest.mark.sweep
def test_without_room_for_both_drivers_start_during_the_harvest_and_workers_after_it(
    finished_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dmsae_here: Here
) -> None:
    import ray

    hold_back(monkeypatch.setattr, tmp_path / "trained", "goes on")
    resources = {"cpus_per_model_actor": ray.cluster_resources()["CPU"] - 1}  # with a task that reads: all
    config = write_config(tmp_path, resources=resources, sweep=ONE)
    plan = plan_experiment(load_experiment(config))
    assert trials_beside_harvest(plan, one_node(ray.cluster_resources()["CPU"])) == 0
    before, workers = {process.pid for process in psutil.process_iter()}, list[str]()

    def watch() -> None:
        """Let the harvest go on when there is a driver."""
        until = time.monotonic() + 240
        while time.monotonic() < until:
            if _titles(before, "ray::ImplicitFunc"):
                time.sleep(5.0)  # a worker would be there soon
                workers.extend(_titles(before, "ray::RayTrainWorker"))
                (tmp_path / "trained").touch()
                return
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = dmsae_here("sweep", config)
    watcher.join(1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not watcher.is_alive() and workers == [] and (tmp_path / "trained").exists()
    assert cores(tmp_path, TRIALS[:1]) == cores(finished_sweep, TRIALS[:1])


def _titles(before: set[int], begin: str) -> list[str]:
    """Titles of new processes of this process's Ray that begin so; tests run beside this one, with a Ray of theirs."""
    titles = []
    for process in psutil.Process().children(recursive=True):
        if process.pid not in before:
            with contextlib.suppress(psutil.NoSuchProcess):
                titles.append(" ".join(process.cmdline()))
    return [title for title in titles if title.startswith(begin)]


@pytest.mark.sweep
def test_a_harvest_that_fails_ends_the_trials_with_its_reason(tmp_path: Path, slow: Slow, dmsae_here: Here) -> None:
    done = dmsae_here("sweep", slow("fails", sweep=ONE))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "dmsae: error: the GPU fell out"
    assert not any((sweep_folder(tmp_path) / "trials").glob("*/summary.json"))


@pytest.mark.sweep
def test_ctrl_c_ends_harvest_and_trials_and_resume_gives_the_undisturbed_cores(
    finished_sweep: Path, tmp_path: Path, dmsae_here: Here
) -> None:
    config = write_config(tmp_path, resources={"cpus_per_model_actor": 0.25}, sweep=ONE)  # both fit two cores
    program = str(Path(__file__).with_name("slow_harvest.py"))
    with OnTerminal([program, str(tmp_path), str(config)], tmp_path) as terminal:
        terminal.wait_for("a trial has trained", 240)
        terminal.wait_for(rf"{TRIALS[0]} [^\n]*0 of 2 +━+╸?━* +\d+%", 60)  # the live table
        assert "activations ━" in terminal.text and "0 of 1 trials finished, 1 running" in terminal.text
        running = json.loads(dmsae("status", sweep_folder(tmp_path), "--json").stdout)
        assert (running["state"], running["controller"]["process"]) == ("running", terminal.process.pid)
        assert 0 < running["harvest"]["done"] < running["harvest"]["total"]
        (trial,) = running["trials"]
        assert (trial["trial"], trial["state"], trial["training"]) == (TRIALS[0], "running", "0 of 2")
        assert 0 < trial["share"] < 1
        family = psutil.Process(terminal.process.pid).children(recursive=True)
        began = time.monotonic()
        terminal.press(INTERRUPT)  # it reaches Ray's processes too
        terminal.wait_for("stopping: the trials write what they have; Ctrl-C again ends hard", 1)
        assert terminal.wait(120) == 130, terminal.text
        assert f"dmsae resume {sweep_folder(tmp_path)}" in terminal.text.replace("\n", "")
        assert time.monotonic() - began < 60 and "Traceback" not in terminal.text
        assert psutil.wait_procs(family, timeout=30)[1] == []
    assert not any((sweep_folder(tmp_path) / "trials").glob("*/summary.json"))
    assert any((sweep_folder(tmp_path) / "train").rglob("training.pt")), "a training was in the middle of its cycle"

    said = dmsae_here("status", sweep_folder(tmp_path))
    assert said.returncode == 0, said
    left = said.stdout
    assert f"sweep {sweep_folder(tmp_path).name}: interrupted" in left and f"resume {sweep_folder(tmp_path)}" in left
    done = dmsae_here("resume", sweep_folder(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "━" not in done.stdout and done.stdout.count(f"  {TRIALS[0]} ") == 4  # a line for each training, no table
    assert cores(tmp_path, TRIALS[:1]) == cores(finished_sweep, TRIALS[:1])
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'small'")
    runs = client.search_runs([experiment.experiment_id])
    # The sweep, its trial, the control and three trainings.
    assert [run.info.status for run in runs] == ["FINISHED"] * 6


# --- how many ---


def test_what_the_harvest_may_need_again_is_never_given_to_trials() -> None:
    demo = plan_experiment(load_experiment(ROOT / "sweeps" / "demo.yaml"))
    # Harvest 0.5, service 0.5, a trial 1.
    for cpus, beside, after in ((1.4, 0, 0), (1.9, 0, 1), (2, 1, 1), (2.5, 1, 2), (3, 2, 2)):
        assert trials_beside_harvest(demo, one_node(cpus)) == beside, cpus
        assert trials_at_once(demo, one_node(cpus)) == after, cpus
    # On two cores, which the embedded cluster counts as three, they would share a core.
    assert trials_beside_harvest(demo, one_node(3), borrowed_cpus=1) == 0
    assert trials_beside_harvest(demo, one_node(5), borrowed_cpus=1) == 2


def test_the_whole_pool_counts_and_streams_have_none() -> None:
    tree = {
        "name": "x",
        "model": {"name": "tiny", "layer": 1},
        "resources": {"model_actors_max": 4, "gpus_per_model_actor": 1, "gpus_per_worker": 1},
    }
    plan = plan_experiment(parse_experiment(tree))
    assert trials_beside_harvest(plan, one_node(100, 5)) == 0  # pool 4, service 1, nothing left for a trial
    assert trials_beside_harvest(plan, one_node(100, 6)) == 1
    assert "overlap" in plan_text(plan)
    stream = plan_experiment(parse_experiment({**tree, "activations": {"mode": "stream"}}))
    assert trials_beside_harvest(stream, one_node(100, 100)) == 0 and "overlap" not in plan_text(stream)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("figure*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_says_what_overlap_needs(path: Path) -> None:
    assert "while the harvest goes on" in plan_text(plan_experiment(load_experiment(path)))
