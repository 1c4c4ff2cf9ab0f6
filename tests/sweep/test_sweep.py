"""A whole sweep with real parts: Ray, Ray Data actors, the store, Ray Train under Ray Tune, MLflow."""

import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from dmsae_ray.distill.core import load_core
from dmsae_ray.files.folder import Folder
from dmsae_ray.results.folders import experiment_of
from dmsae_ray.store.layout import SPLITS, shard_name
from dmsae_ray.store.token_shards import read_layout, read_tokens
from tests.mlflow_stores import runs
from tests.small_sweep import TRIALS, Here, cores, sweep_folder, trained_cycles, write_config

pytestmark = pytest.mark.sweep


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


def test_the_language_model_runs_once_over_each_context(finished_sweep: Path) -> None:
    """Counted where the model runs, in whichever process."""
    (store,) = (finished_sweep / "runs" / "stores").iterdir()
    files = (finished_sweep / "counts").iterdir()
    seen = Counter(line for file in files for line in file.read_text().split())
    expected = contexts(store)
    assert all(len(set(of_split)) == len(of_split) for of_split in expected.values())
    # Cycle 0 of both trials is one SAE; the cycles and the control are theirs.
    saes = len([p for p in (finished_sweep / "runs" / "cycles").iterdir() if not p.name.startswith(".")])
    assert saes == 1 + 2 * 3
    # Of the eval split: harvest; clean and two ablations; spliced.
    for split, often in (("train", 1), ("attribution", 1), ("eval", 1 + 3 + saes)):
        assert {seen[context] for context in expected[split]} == {often}, split
    assert sum(seen.values()) == sum(len(expected[s]) for s in SPLITS) + (3 + saes) * len(expected["eval"])


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


def test_mlflow_has_a_parent_and_a_child_a_trial(finished_sweep: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished_sweep / 'runs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'small'")
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    kinds: dict[str, list[Any]] = {}
    for run in runs:
        kinds.setdefault(run.data.tags["dmsae.kind"], []).append(run)
    (parent,) = kinds["sweep"]
    assert all(run.info.status == "FINISHED" for run in runs)
    for kind in ("trial", "control"):
        assert {run.data.tags["mlflow.parentRunId"] for run in kinds[kind]} == {parent.info.run_id}
    assert parent.data.metrics["tokens_dropped/bos"] == pytest.approx(
        1 / 64, rel=1e-3
    )  # one opens each context; four digits are logged
    assert parent.data.params["layer"] == "1" and parent.data.tags["version.dmsae_ray"]
    assert [d.dataset.source for d in parent.inputs.dataset_inputs] == ["stdlib"]
    assert {f.path for f in client.list_artifacts(parent.info.run_id)} >= {"config.yaml", "report.json"}
    assert {run.info.run_name for run in kinds["trial"]} == set(TRIALS)
    for run in kinds["trial"]:
        summary = json.loads((sweep_folder(finished_sweep) / "trials" / run.info.run_name / "summary.json").read_text())
        assert run.data.params["k"] == "8" and run.data.params["seed"] == "0"
        assert float(run.data.params["coverage"]) == summary["coverage"]
        last = summary["records"][-1]
        expected = {"carryover": last["carryover"], "core_size": last["n_core"]}
        expected |= {n: last["metrics"][n] for n in ("l0_core", "l0_non_core", "fvu", "loss_recovered")}
        for name, value in expected.items():
            assert run.data.metrics[name] == pytest.approx(value, rel=1e-3), name
        (control,) = [r for r in kinds["control"] if r.info.run_name == f"{run.info.run_name} gaussian"]
        expected = summary["controls"]["gaussian"]
        assert control.data.metrics["carryover"] == pytest.approx(expected["carryover"], rel=1e-3)
        trainings = [r for r in kinds["training"] if r.data.tags["mlflow.parentRunId"] == run.info.run_id]
        assert sorted(r.data.params["cycle"] for r in trainings) == ["0", "1", "2"]
        for training in (control, *trainings):
            curve = client.get_metric_history(training.info.run_id, "train/loss")
            assert len(curve) >= 50 - 1 and curve[-1].step == 25_600
    names = {name for run in runs if run is not parent for name in run.data.metrics}
    assert len(names) <= 35


def test_output_is_short_and_says_where_everything_is(finished_sweep: Path) -> None:
    text = (finished_sweep / "stdout.txt").read_text()
    folder = sweep_folder(finished_sweep)
    for place in (folder / "report.html", folder / "figures", folder / "trials", f"dmsae ui {folder}"):
        assert str(place) in text
    assert "tokens kept out of training: bos 1.56%" in text
    assert len(text.splitlines()) < 60
    assert not re.search(r"WARNING|Traceback|raylet|\(pid=", text)
    assert list((folder / "figures").glob("*.png")) and (folder / "report.md").read_text().count("|") > 50


def test_running_again_finds_everything_and_logs_nothing_twice(finished_sweep: Path, dmsae_here: Here) -> None:
    before = cores(finished_sweep)
    journal = (sweep_folder(finished_sweep) / "journal.jsonl").read_text()
    done = dmsae_here("sweep", finished_sweep / "experiment.yaml")
    assert done.returncode == 0, done.stderr
    assert cores(finished_sweep) == before
    assert (sweep_folder(finished_sweep) / "journal.jsonl").read_text() == journal


def copy_of(run: Path, folder: Path) -> Path:
    """Return the config of a copy of a run's folder: other tests, perhaps at the same time, count what is in it."""
    shutil.copytree(run / "runs", folder / "runs")
    return Path(shutil.copy(run / "experiment.yaml", folder))


def test_values_of_the_grid_are_added_to_a_finished_sweep(
    finished_sweep: Path, tmp_path: Path, dmsae_here: Here
) -> None:
    """A coverage that is almost one of before selects the same cores: all its cycles are there."""
    config = copy_of(finished_sweep, tmp_path)
    done = dmsae_here("sweep", config, "--set", "sweep.coverage=[0.3,0.3001]")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "cycle " in line or "control" in line]
    assert sum("[found]" in line for line in lines) == 4, done.stdout
    # Cycle 0 is that of the trials that have finished.
    assert "left: 1 of 2 trials, 3 of 7 SAE trainings, 76.8k training tokens, " in done.stdout
    (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
    added = "k8-tau0.3001-seed0"
    core = load_core(folder / "trials" / added / "core.safetensors")
    assert core.rows.equal(load_core(folder / "trials" / TRIALS[0] / "core.safetensors").rows)
    assert experiment_of(folder).coverages == (0.3, 0.3001, 0.6)
    report = json.loads((folder / "report.json").read_text())
    assert [cycles["setting"]["coverage"] for cycles in report["cycles"]] == [0.3, 0.3001, 0.6]
    _, children = runs(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}", "small")
    assert {run.info.status for run in children} == {"FINISHED"}
    trials = {run.info.run_name for run in children if run.data.tags["dmsae.kind"] == "trial"}
    assert trials == {*TRIALS, added}


def test_a_trial_that_cannot_go_on_says_why(finished_sweep: Path, tmp_path: Path, dmsae_here: Here) -> None:
    """A shard that was damaged after its harvest is found by the reader, in the middle of a training."""
    config = write_config(tmp_path, name="damaged")
    shutil.copytree(finished_sweep / "runs" / "stores", tmp_path / "runs" / "stores")
    shard = sorted((tmp_path / "runs" / "stores").glob("*/activations/train-*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    done = dmsae_here("distill", config, "--set", "distill.coverage=0.3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"error: trial k8-tau0.3-seed0: .*{shard.name} does not have its checksum", done.stdout)
    assert "unfinished" not in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_two_workers_share_a_training(finished_sweep: Path, tmp_path: Path, dmsae_here: Here) -> None:
    """They read a stream; one worker with a store made the cores that they are compared with."""
    resources, distill = {"workers_per_trial": 2, "cpus_per_worker": 0.5}, {"cycles": 1, "controls": []}
    config = write_config(tmp_path, resources=resources, distill=distill)
    done = dmsae_here("distill", config, "--set", "distill.coverage=0.3", "--set", "activations.mode=stream")
    assert done.returncode == 0, done.stdout + done.stderr
    two = json.loads((sweep_folder(tmp_path) / "trials" / TRIALS[0] / "summary.json").read_text())
    one = json.loads((sweep_folder(finished_sweep) / "trials" / TRIALS[0] / "summary.json").read_text())
    for name in ("fvu", "l0", "loss_recovered"):
        assert two["records"][0]["metrics"][name] == pytest.approx(one["records"][0]["metrics"][name], rel=0.02)
    assert {tuple(i) for i in two["lineage"][0]} == {tuple(i) for i in one["lineage"][0]}


def test_transfer_trains_around_a_core_with_its_controls_and_then_baselines_that_match_its_l0(
    finished_sweep: Path, tmp_path: Path, dmsae_here: Here
) -> None:
    core = tmp_path / "core.safetensors"
    shutil.copy(sweep_folder(finished_sweep) / "trials" / TRIALS[1] / "core.safetensors", core)
    config = copy_of(finished_sweep, tmp_path)
    moving = ("transfer", config, "--core", core, "--set", "name=moved", "--set", "sweep.coverage=null")
    done = dmsae_here(*moving)
    assert done.returncode == 2 and "sweep.seeds is [0]; 0 bore transfer.core" in done.stderr, done.stdout + done.stderr
    moving = (*moving, "--set", "sweep.seeds=[1]", "--set", "transfer.baseline_k=matched")
    done = dmsae_here(*moving)
    assert done.returncode == 0, done.stdout + done.stderr
    (moved,) = (tmp_path / "runs" / "sweeps").glob("moved-*")
    trials = {p.parent.name: json.loads(p.read_text())["records"][0] for p in moved.glob("trials/*/summary.json")}
    first = {
        "k8-dense-distilled-seed1",
        "k8-sparse-distilled-seed1",
        "k8-dense-gaussian-seed1",
        "k8-sparse-gaussian-seed1",
        "k8-dense-baseline-seed1",
    }
    matched = {round(trials[name]["metrics"]["l0"]): name for name in first if "baseline" not in name} | {8: ""}
    second = {f"k{k}-dense-baseline-seed1" for k in matched if k != 8}
    assert second and set(trials) == first | second
    lines = done.stdout.splitlines()
    said = [line for line in lines if " matches the L0 of k = 8 " in line]
    assert len(said) == len(second) and "up to 4 further baselines will be trained" in done.stdout
    # Nothing of the second round begins before the first has ended.
    begun = [n for n, line in enumerate(lines) if line.strip().split(" ")[0] in second]
    assert min(begun) > lines.index(said[0]) > max(n for n, line in enumerate(lines) if line.strip().startswith("k8-"))
    for name in second:
        k = int(name[1:].partition("-")[0])
        assert trials[name]["metrics"]["l0"] == pytest.approx(trials[matched[k]]["metrics"]["l0"], rel=0.1)
    size = len(load_core(core))
    assert trials["k8-dense-distilled-seed1"]["n_core_in"] == size == trials["k8-sparse-gaussian-seed1"]["n_core_in"]
    assert trials["k8-dense-baseline-seed1"]["n_core_in"] == 0
    sparse = trials["k8-sparse-distilled-seed1"]["metrics"]
    assert sparse["l0"] < trials["k8-dense-distilled-seed1"]["metrics"]["l0"]
    summary = json.loads((moved / "trials" / "k8-dense-distilled-seed1" / "summary.json").read_text())
    assert summary["core_trainings"] == 3  # cycles 0 to 2
    # Run again, it finds all of it.
    trained, journal = trained_cycles(tmp_path).keys(), (moved / "journal.jsonl").read_text()
    done = dmsae_here(*moving)
    assert done.returncode == 0 and f"all {len(trials)} trials are finished: nothing to run" in done.stdout
    assert trained_cycles(tmp_path).keys() == trained and (moved / "journal.jsonl").read_text() == journal
    # So does a sweep that was interrupted between the rounds: its config asks for matching, and names no k yet.
    for name in second:
        shutil.rmtree(moved / "trials" / name)
    shutil.copy(moved / "begun.yaml", moved / "config.yaml")
    done = dmsae_here("status", moved)
    assert f"still to be trained: {len(second)} baseline" in done.stdout and "interrupted" in done.stdout, done.stdout
    done = dmsae_here("plan", config, "--set", f"transfer.core={core}", *moving[4:])
    assert done.returncode == 0 and said[0].strip() in done.stdout and min(second) in done.stdout, done.stdout
    done = dmsae_here("resume", moved)
    assert done.returncode == 0 and said[0] in done.stdout.splitlines(), done.stdout + done.stderr
    assert {p.parent.name for p in moved.glob("trials/*/summary.json")} == first | second
    assert trained_cycles(tmp_path).keys() == trained
    # Another core under the same name does not get the first one's results.
    shutil.copy(sweep_folder(finished_sweep) / "trials" / TRIALS[0] / "core.safetensors", core)
    done = dmsae_here(*moving)
    assert done.returncode == 2 and "transfer.core has changed" in done.stderr, done.stdout + done.stderr
