"""A whole sweep with real parts: Ray, Ray Data actors, the store, Ray Train under Ray Tune, MLflow."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from dmsae_ray.distill.core import load_core
from tests.small_sweep import dmsae, environment, sweep_folder, write_config

TRIALS = ["k8-tau0.3-seed0", "k8-tau0.6-seed0"]


def cores(run: Path, trials: Sequence[str] = TRIALS) -> dict[str, tuple[bytes, list[list[list[int]]]]]:
    """Per trial: the distilled core's rows, bit for bit, and who was in the core of each cycle."""
    found = {}
    for trial in trials:
        folder = sweep_folder(run) / "trials" / trial
        rows = load_core(folder / "core.safetensors").rows
        found[trial] = (rows.numpy().tobytes(), json.loads((folder / "summary.json").read_text())["lineage"])
    return found


def test_every_trial_tells_its_history(finished_sweep: Path) -> None:
    for trial in TRIALS:
        summary = json.loads((sweep_folder(finished_sweep) / "trials" / trial / "summary.json").read_text())
        assert summary["collapsed_at"] is None
        assert len(summary["core_sizes"]) == 3 and min(summary["core_sizes"]) > 0
        cycles = [tuple(map(tuple, core)) for core in summary["lineage"]]
        for before, after, record in zip(cycles, cycles[1:], summary["records"][1:], strict=False):
            carried = len(set(before) & set(after))
            assert record["carried"] == carried
            assert record["carryover"] == pytest.approx(carried / len(before))
        assert set(cycles[-1]) >= set(map(tuple, summary["distilled_lineage"]))
        assert set(summary["distilled_lineage"][i][0] for i in range(summary["distilled_size"])) <= {0}
        control = summary["controls"]["gaussian"]
        assert control["n_core_in"] == summary["core_sizes"][-2]
        metrics = summary["records"][-1]["metrics"]
        assert 0 < metrics["fvu"] < 1 and 0 < metrics["loss_recovered"] < 1
        assert metrics["l0"] == pytest.approx(metrics["l0_core"] + metrics["l0_non_core"])


def test_trials_that_differ_in_coverage_share_cycle_0(finished_sweep: Path) -> None:
    trained = [p for p in (finished_sweep / "runs" / "cycles").iterdir() if not p.name.startswith(".")]
    assert len(trained) == 1 + 2 * (2 + 1)  # cycle 0 once; cycles 1, 2 and the control for each coverage


def test_mlflow_has_a_parent_and_a_child_a_trial(finished_sweep: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished_sweep / 'runs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'small'")
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if run not in children]
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert parent.data.metrics["tokens_dropped/bos"] == pytest.approx(1 / 64)  # one opens each context
    assert {run.info.run_name for run in children} == set(TRIALS)
    for run in children:
        summary = json.loads((sweep_folder(finished_sweep) / "trials" / run.info.run_name / "summary.json").read_text())
        assert run.info.status == "FINISHED"
        assert run.data.params["k"] == "8" and run.data.params["seed"] == "0"
        assert float(run.data.params["coverage"]) == summary["coverage"]
        last = summary["records"][-1]
        expected = {"carryover": last["carryover"], "core_size": last["n_core"]}
        expected |= {n: last["metrics"][n] for n in ("l0_core", "l0_non_core", "fvu", "loss_recovered")}
        for name, value in expected.items():
            assert run.data.metrics[name] == pytest.approx(value), name
        curve = client.get_metric_history(run.info.run_id, "train/loss")
        assert len(curve) >= 3 * 50 - 3 and curve[-1].step == 3 * 25_600


def test_output_is_short_and_says_where_everything_is(finished_sweep: Path) -> None:
    text = (finished_sweep / "stdout.txt").read_text()
    folder = sweep_folder(finished_sweep)
    for place in (folder / "report.md", folder / "figures", folder / "trials", "mlflow ui --backend-store-uri sqlite"):
        assert str(place) in text
    assert "tokens kept out of training: bos 1.56%" in text
    assert len(text.splitlines()) < 60
    assert not re.search(r"WARNING|Traceback|raylet|\(pid=", text)
    assert list((folder / "figures").glob("*.png")) and (folder / "report.md").read_text().count("|") > 50


def test_running_again_finds_everything_and_logs_nothing_twice(finished_sweep: Path) -> None:
    before = cores(finished_sweep)
    journal = (sweep_folder(finished_sweep) / "journal.jsonl").read_text()
    done = dmsae("sweep", finished_sweep / "experiment.yaml")
    assert done.returncode == 0, done.stderr
    assert cores(finished_sweep) == before
    assert (sweep_folder(finished_sweep) / "journal.jsonl").read_text() == journal


def test_another_grid_finds_the_cycles_that_it_shares(finished_sweep: Path) -> None:
    done = dmsae("distill", finished_sweep / "experiment.yaml", "--set", "distill.coverage=0.3", "--set", "name=single")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "cycle " in line or "control" in line]
    assert sum("[found]" in line for line in lines) == 4, done.stdout
    (single,) = (finished_sweep / "runs" / "sweeps").glob("single-*")
    core = load_core(single / "trials" / TRIALS[0] / "core.safetensors")
    assert core.rows.equal(load_core(sweep_folder(finished_sweep) / "trials" / TRIALS[0] / "core.safetensors").rows)


def test_a_trial_that_cannot_go_on_says_why(finished_sweep: Path, tmp_path: Path) -> None:
    """A shard that was damaged after its harvest is found by the reader, in the middle of a training."""
    config = write_config(tmp_path, name="damaged")
    shutil.copytree(finished_sweep / "runs" / "stores", tmp_path / "runs" / "stores")
    shard = sorted((tmp_path / "runs" / "stores").glob("*/activations/train-*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    done = dmsae("distill", config, "--set", "distill.coverage=0.3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"error: trial k8-tau0.3-seed0: .*{shard.name} does not have its checksum", done.stdout)
    assert "unfinished" not in done.stdout and "Traceback" not in done.stdout + done.stderr


def start(config: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-u", "-m", "dmsae_ray.cli", "sweep", str(config)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=config.parent,
        start_new_session=True,  # a terminal's foreground group
    )


def wait_for_line(process: "subprocess.Popen[str]", pattern: str) -> str:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if re.search(pattern, line):
            return line
    raise AssertionError(f"no line with {pattern!r} in:\n{''.join(seen)}")


def test_ctrl_c_and_resume_give_the_undisturbed_cores(finished_sweep: Path, tmp_path: Path) -> None:
    process = start(write_config(tmp_path))
    wait_for_line(process, r"cycle 1 ")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert f"dmsae resume {sweep_folder(tmp_path)}" in rest
    assert not any((sweep_folder(tmp_path) / "trials").glob("*/summary.json"))

    done = dmsae("resume", sweep_folder(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert cores(tmp_path) == cores(finished_sweep)
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'small'")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3


def train_workers(root: int) -> list[psutil.Process]:
    """The processes of Ray Train's workers in the cluster that process `root` started."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        try:
            if "RayTrainWorker" in process.name() or "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_killed_train_worker_is_replaced_and_changes_nothing(finished_sweep: Path, tmp_path: Path) -> None:
    process = start(write_config(tmp_path, sweep={"coverage": [0.3]}))
    wait_for_line(process, r"cycle 0 ")
    deadline = time.monotonic() + 60
    while not (workers := train_workers(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert workers, "no Train worker was found"
    os.kill(workers[0].pid, signal.SIGKILL)
    rest, _ = process.communicate(timeout=400)
    assert process.returncode == 0, rest
    assert cores(tmp_path, TRIALS[:1]) == cores(finished_sweep, TRIALS[:1])


def test_two_workers_share_a_training(finished_sweep: Path, tmp_path: Path) -> None:
    """They read a stream; one worker with a store made the cores that they are compared with."""
    config = write_config(tmp_path, resources={"workers_per_trial": 2, "cpus_per_worker": 0.5}, distill={"cycles": 1})
    done = dmsae("distill", config, "--set", "distill.coverage=0.3", "--set", "activations.mode=stream")
    assert done.returncode == 0, done.stdout + done.stderr
    two = json.loads((sweep_folder(tmp_path) / "trials" / TRIALS[0] / "summary.json").read_text())
    one = json.loads((sweep_folder(finished_sweep) / "trials" / TRIALS[0] / "summary.json").read_text())
    for name in ("fvu", "l0", "loss_recovered"):
        assert two["records"][0]["metrics"][name] == pytest.approx(one["records"][0]["metrics"][name], rel=0.02)
    assert {tuple(i) for i in two["lineage"][0]} == {tuple(i) for i in one["lineage"][0]}


def test_transfer_trains_around_a_core_with_its_controls(finished_sweep: Path, tmp_path: Path) -> None:
    core = tmp_path / "core.safetensors"
    shutil.copy(sweep_folder(finished_sweep) / "trials" / TRIALS[1] / "core.safetensors", core)
    config = finished_sweep / "experiment.yaml"
    done = dmsae("transfer", config, "--core", core, "--set", "name=moved", "--set", "sweep.coverage=null")
    assert done.returncode == 0, done.stdout + done.stderr
    (moved,) = (finished_sweep / "runs" / "sweeps").glob("moved-*")
    trials = {p.parent.name: json.loads(p.read_text())["records"][0] for p in moved.glob("trials/*/summary.json")}
    assert set(trials) == {
        "k8-dense-distilled-seed0",
        "k8-sparse-distilled-seed0",
        "k8-dense-gaussian-seed0",
        "k8-sparse-gaussian-seed0",
        "k8-dense-baseline-seed0",
    }
    size = len(load_core(core))
    assert trials["k8-dense-distilled-seed0"]["n_core_in"] == size == trials["k8-sparse-gaussian-seed0"]["n_core_in"]
    assert trials["k8-dense-baseline-seed0"]["n_core_in"] == 0
    # The baseline is cycle 0 of the sweep, and is found.
    assert trials["k8-dense-baseline-seed0"]["cached"]
    sparse = trials["k8-sparse-distilled-seed0"]["metrics"]
    assert sparse["l0"] < trials["k8-dense-distilled-seed0"]["metrics"]["l0"]
    # Another core under the same name does not get the first one's results.
    shutil.copy(sweep_folder(finished_sweep) / "trials" / TRIALS[0] / "core.safetensors", core)
    done = dmsae("transfer", config, "--core", core, "--set", "name=moved", "--set", "sweep.coverage=null")
    assert done.returncode == 2 and "transfer.core has changed" in done.stderr, done.stdout + done.stderr
