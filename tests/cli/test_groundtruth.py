"""`dmsae groundtruth` over a real Ray session, with a world and a scorer of one's own."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dmsae_ray.cli.commands import main
from dmsae_ray.cli.records import _say

SMALL = [
    *("--set", "n_latents=32", "--set", "group_sizes=[8,8,16]", "--set", "k=3", "--set", "batch_size=64"),
    *("--set", "steps=60", "--set", "cycles=2", "--set", "tokens=1500", "--set", "importance_tokens=1500"),
]
SCORER = ["--scorer", "a=tests.groundtruth.own:nothing"]
WORLD = ["--world", "tests.groundtruth.own:orthogonal"]


def test_a_store_without_saved_views_shows_all_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The benchmark's runs are there; it would be wrong to say that nothing is."""
    _say("http://127.0.0.1:5000/", [], browser=False)
    assert capsys.readouterr().out == "all runs; no sweep has saved views there:\n  http://127.0.0.1:5000/\n"


def test_replicas_run_in_ray_are_kept_and_make_a_page(
    ray_cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["groundtruth", *WORLD, "--seeds", "0-1", "--out", str(out), *SMALL]) == 0
    first = capsys.readouterr().out
    assert "2 replicas: tests.groundtruth.own:orthogonal; 2 seeds\n" in first and "  2 of 2: " in first
    assert "Every row of C* is a row of C_0, bit for bit, in 4 of 4 runs." in first
    assert re.search(rf"^MLflow: \S*dmsae ui {out}\n\Z", first, re.MULTILINE)
    files = sorted((out / "replicas").iterdir())
    assert len(files) == 2
    # Another seed runs; those that are there do not.
    written = [file.stat().st_mtime_ns for file in files]
    assert main(["groundtruth", *WORLD, "--seeds", "0-2", "--out", str(out), *SMALL]) == 0
    again = capsys.readouterr().out
    assert "3 replicas: tests.groundtruth.own:orthogonal; 3 seeds, 2 of them kept from before\n" in again
    assert [file.stat().st_mtime_ns for file in files] == written
    numbers = json.loads((out / "groundtruth.json").read_text())
    assert [r["seed"] for r in numbers["replicas"]] == [0, 1, 2] and numbers["settings"]["steps"] == 60
    # Another scorer is another benchmark.
    own = ["--scorer", "wrong=tests.groundtruth.own:backwards", "--set", "score=wrong"]
    assert main(["groundtruth", *WORLD, "--seeds", "0-2", "--out", str(out), *SMALL, *own]) == 0
    wrong = capsys.readouterr().out
    assert "kept" not in wrong and len(list((out / "replicas").iterdir())) == 6
    check_records(out)


def check_records(out: Path) -> None:
    """In MLflow each replica is one run below that of the folder, with the numbers of its file."""
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'groundtruth'")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    whole = runs.pop("out")
    files = {file.stem: json.loads(file.read_text()) for file in (out / "replicas").iterdir()}
    assert runs.keys() == files.keys() and {run.info.status for run in (whole, *runs.values())} == {"FINISHED"}
    assert "Every row of C* is a row of C_0, bit for bit" in whole.data.tags["mlflow.note.content"]
    kept = {file.path for file in client.list_artifacts(whole.info.run_id)}
    assert "groundtruth.html" in kept and any(name.endswith(".png") for name in kept)
    for name, run in runs.items():
        found, params, metrics = files[name], run.data.params, run.data.metrics
        assert run.data.tags["mlflow.parentRunId"] == whole.info.run_id
        assert (params["seed"], params["score"], params["steps"]) == (str(found["seed"]), found["score"], "60")
        star = found["arms"]["sparse"]["distilled"]["purity"]
        assert metrics["purity/sparse distilled"] == pytest.approx(star, rel=1e-3)
        rank = found["scores"]["mean_square"]["dictionary"]
        assert metrics["rank with importance/mean_square"] == pytest.approx(rank, rel=1e-3)
        history = client.get_metric_history(run.info.run_id, "by cycle/purity dense")
        purity = [core["purity"] for core in found["cores"]["dense"]]
        assert [(point.step, point.value) for point in history] == [
            (cycle, pytest.approx(value, rel=1e-3)) for cycle, value in enumerate(purity, 1)
        ]
        assert len(metrics) <= 45


def test_a_scorer_that_fails_is_one_line(ray_cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--scorer", "few=tests.groundtruth.own:too_few"]
    assert main(["groundtruth", *WORLD, "--seeds", "0-1", "--out", str(tmp_path), *SMALL, *own]) == 2
    error = capsys.readouterr().err
    found = re.fullmatch(r"dmsae: error: tests.groundtruth.own:orthogonal, seed [01]: (.*)\n", error)
    assert found is not None
    assert found[1] == "scorer 'few': its scores have shape (3,); one a latent are needed, (32,)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--regimes", "pos,odd"], "regimes: 'odd' is unknown; known are pos, indep, neg, small_d, domains"),
        (["--seeds", "0,0"], "--seeds is '0,0'; it names a seed twice, and a replica counts once"),
        (
            ["--mlflow", "ftp://x"],
            "--mlflow is 'ftp://x'; give a running server (http://host:port) or sqlite:////path/",
        ),
        (["--seeds", "a"], "--seeds is 'a'; it must be numbers and ranges, as in 0,5,10-12"),
        (["--set", "step=3"], "--set is 'step=3'; it must be NAME=VALUE with one of n_latents, group_sizes, "),
        (["--set", "steps=x"], "--set steps is 'x'; it must be a whole number, such as 300"),
        (["--set", "steps=0"], "steps: 0 must be at least 1"),
        (["--set", "k=300"], "k: 300 must be at most 256, the latents under BatchTopK"),
        (["--set", "group_sizes=[1,2]"], "group_sizes: [1, 2] add up to 3, not to 256"),
        (["--set", "score=odd"], "--set score is 'odd'; known are quantile, mean, mean_square, "),
        (["--world", "nowhere"], "--world is 'nowhere'; it must be MODULE:FUNCTION"),
        (["--world", "nowhere:f"], "--world is 'nowhere:f'; it cannot be imported (No module named 'nowhere')"),
        (
            ["--world", "builtins:dict", "--seeds", "4"],
            "--world is 'builtins:dict'; seed 4: TypeError: 'int' object is ",
        ),
        (
            ["--world", "builtins:str"],
            "--world is 'builtins:str'; seed 0: world: it has no fingerprint and no features and no domains and no",
        ),
        (["--scorer", "mean=a:b"], "--scorer is 'mean=a:b'; 'mean' is a score that is built in, give it another name"),
        (
            ["--scorer", "ablation=a:b"],
            "--scorer is 'ablation=a:b'; 'ablation' is a score that is built in, give it an",
        ),
        (
            [*SCORER, *SCORER],
            "--scorer is 'a=tests.groundtruth.own:nothing'; 'a' is there twice, give one of them anot",
        ),
        (
            ["--scorer", "a=builtins:len"],
            "--scorer is 'a=builtins:len'; it must take an SAE and a WorldSource (too many",
        ),
        (
            ["--scorer", "a=math:dist"],
            "--scorer is 'math:dist'; 'math' has no source file (.py), so that no change of i",
        ),
        (["--set", "coverage=2"], "coverage: 2.0 is not in (0, 1]"),
        ([*WORLD, *WORLD], "--world is 'tests.groundtruth.own:orthogonal' more than once; a replica counts once"),
        (
            ["--world", "tests.groundtruth.own:no_twelve", "--seeds", "10-13"],
            "--world is 'tests.groundtruth.own:no_twelve'; seed 12: RuntimeError: no world 12 second line\n",
        ),
        (
            ["--world", "tests.groundtruth.own:wide", "--seeds", "1"],
            "--world is 'tests.groundtruth.own:wide'; seed 1: world.logits: float64 must be float32\n",
        ),
    ],
)
def test_bad_input_is_one_line_before_ray_starts(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", started)
    assert main(["groundtruth", "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dmsae: error: {message}") and error.count("\n") == 1


def test_a_damaged_replica_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dmsae_ray.cli.groundtruth import _place
    from dmsae_ray.groundtruth import REGIMES, BenchmarkSettings

    regime = REGIMES["pos"]
    place = _place(tmp_path, regime, 0, regime.make(0).fingerprint, BenchmarkSettings(), {})
    place.parent.mkdir()
    place.write_text("{")
    assert main(["groundtruth", "--regimes", "pos", "--seeds", "0", "--out", str(tmp_path)]) == 2
    assert f"groundtruth: {place} cannot be read (" in capsys.readouterr().err


def test_a_replica_of_changed_source_is_another(tmp_path: Path) -> None:
    from dmsae_ray.cli.groundtruth import _place
    from dmsae_ray.groundtruth import REGIMES, BenchmarkSettings

    def place(world: str, **sources: str) -> Path:
        return _place(tmp_path, REGIMES["pos"], 0, world, BenchmarkSettings(), sources)

    mine = {"mine=": "a"}
    assert place("w", **mine) == place("w", **mine, other="b")
    assert len({place("w"), place("v"), place("w", **mine), place("w", **{"mine=": "b"}), place("w", pos="a")}) == 5
