"""A sweep of further axes: each point is the sweep that a file of its own would be; what they share is trained once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dmsae_ray.config import load_experiment
from dmsae_ray.distill import load_core
from dmsae_ray.files import Folder
from dmsae_ray.results import recorded_stores
from dmsae_ray.store import store_key
from dmsae_ray.sweep import prepare_sweep
from tests.small_sweep import TRIALS, Here, sweep_folder, trained_cycles, write_config

AXES = {"model.layer": [1, 2], "distill.score": ["quantile", "mean_square"]}
SHORT: dict[str, Any] = {"cycles": 1, "controls": []}
NAMES = [f"k8-tau0.3-score-{score}-layer{layer}-seed0" for layer in (1, 2) for score in ("quantile", "mean_square")]


def summary(run: Path, sweep: str, trial: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep_folder(run, sweep) / "trials" / trial / "summary.json").read_text())
    return found


def core(run: Path, sweep: str, trial: str) -> tuple[bytes, object]:
    found = load_core(sweep_folder(run, sweep) / "trials" / trial / "core.safetensors")
    return found.rows.numpy().tobytes(), found.lineage


def test_a_part_is_what_its_axes_say_and_not_what_the_file_says_beside(tmp_path: Path) -> None:
    for layers in ([2], [2, 0]):
        config = write_config(tmp_path, output=str(tmp_path / "runs"), sweep={"axes": {"model.layer": layers}})
        sweep = prepare_sweep(load_experiment(config))
        assert sweep.experiment.model.layer == 1
        parts = sweep.parts()
        assert [part.experiment.model.layer for part in parts] == layers
        assert [part.store_key for part in parts] == [store_key(part.experiment) for part in parts]
        assert sweep.store_key == parts[0].store_key and len({part.store_key for part in parts}) == len(layers)
        stores = recorded_stores(Folder(str(sweep.folders.sweep)), sweep.experiment)
        assert stores == {f"layer={layer}": part.store_key for layer, part in zip(layers, parts, strict=True)}
        assert sorted(t.trial_id for part in parts for t in part.plan.trials) == sorted(
            trial.trial_id for trial in sweep.plan.trials
        )


@pytest.mark.sweep
def test_points_are_sweeps_of_their_own_that_share_what_they_can(
    finished_sweep: Path, tmp_path: Path, dmsae_here: Here
) -> None:
    shutil.copytree(finished_sweep / "runs", tmp_path / "runs")
    before = trained_cycles(tmp_path)
    config = write_config(tmp_path, name="axes", distill=SHORT, sweep={"coverage": [0.3], "axes": AXES})
    done = dmsae_here("sweep", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "part layer=1: 2 trials" in done.stdout and "part layer=2: 2 trials" in done.stdout
    assert "What the axes change" in done.stdout
    # A page of a latent shows where it fires in its own activations.
    page = (sweep_folder(tmp_path, "axes") / "report.html").read_text()
    assert "trials on other activations have no pages here; --trial gives one its own: k8-tau0.3-score-" in page

    # Layer 1 finds its cycle 0, and with score 'quantile' cycle 1 too; layer 2 has one cycle 0 for both scores.
    keys = {name: [record["key"] for record in summary(tmp_path, "axes", name)["records"]] for name in NAMES}
    own = [record["key"] for record in summary(tmp_path, "small", TRIALS[0])["records"]]
    assert keys[NAMES[0]] == own[:2] and keys[NAMES[1]][0] == own[0] != keys[NAMES[2]][0] == keys[NAMES[3]][0]
    made = trained_cycles(tmp_path).keys() - before.keys()
    assert made == {keys[NAMES[1]][1], *keys[NAMES[2]], *keys[NAMES[3]]} and len(made) == 4
    stores = [path.name for path in (tmp_path / "runs" / "stores").iterdir()]
    assert len(stores) == 2

    # A file of its own finds all of a point, and has the same core, bit for bit.
    plain = write_config(
        tmp_path, name="plain", model={"layer": 2}, distill={**SHORT, "score": "mean_square"}, sweep={"coverage": [0.3]}
    )
    done = dmsae_here("sweep", plain)
    assert done.returncode == 0, done.stdout + done.stderr
    assert trained_cycles(tmp_path).keys() == made | before.keys()
    assert core(tmp_path, "plain", "k8-tau0.3-seed0") == core(tmp_path, "axes", NAMES[3])

    _check_records(tmp_path)
    _check_evaluations(tmp_path, dmsae_here)


def _check_records(run: Path) -> None:
    """Trials have their axes in MLflow; the sweep does not say one layer for all."""
    client = MlflowClient(f"sqlite:///{run / 'runs' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "axes"]
    runs = {r.info.run_name: r.data for r in client.search_runs([experiment.experiment_id])}
    for name in NAMES:
        score, layer = name.removeprefix("k8-tau0.3-score-").removesuffix("-seed0").split("-layer")
        assert (runs[name].params["model.layer"], runs[name].params["distill.score"]) == (layer, score)
        assert runs[name].metrics["model.layer"] == float(layer)
    sweep = runs[sweep_folder(run, "axes").name]
    assert "layer" not in sweep.params and sweep.params["cycles"] == "1"
    assert {"tokens_dropped/layer-1/bos", "tokens_dropped/layer-2/bos"} <= sweep.metrics.keys()


def _check_evaluations(run: Path, dmsae_here: Here) -> None:
    """Each SAE is measured on the activations of its own layer: the numbers are those of its training."""
    folder = sweep_folder(run, "axes")
    done = dmsae_here("eval", folder, "--evals", "own")
    assert done.returncode == 0 and "6 SAEs x 1 evaluations: 6\n" in done.stdout, done.stdout + done.stderr
    reports = {r["key"]: r for name in NAMES for r in summary(run, "axes", name)["records"]}
    rows = json.loads((folder / "quality.json").read_text())["saes"]
    assert {row["key"] for row in rows} == reports.keys()
    for row in rows:
        for name in ("fvu", "loss_recovered", "l0_core"):
            assert row["metrics"][f"own/{name}"] == pytest.approx(reports[row["key"]]["metrics"][name], rel=1e-4)
    again = dmsae_here("eval", folder, "--evals", "own")
    assert "6, 6 of them kept from before\n" in again.stdout
    status = dmsae_here("status", folder)
    assert "harvest: complete" in status.stdout and "4 of 4 trials finished" in status.stdout
