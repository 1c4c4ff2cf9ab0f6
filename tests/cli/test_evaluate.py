"""`dmsae eval` on a finished sweep: real Ray tasks, MLflow, the report; and what is wrong is one line."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.saebench.saebench_here import saebench  # noqa: F401 - a fixture
from tests.small_sweep import TRIALS, Here, sweep_folder


@pytest.fixture
def copied(finished_sweep: Path, tmp_path: Path) -> Path:
    """A copy of the small sweep's output, since the command writes into it; the copy is somewhere else, too."""
    shutil.copytree(finished_sweep / "runs", tmp_path / "runs")
    return sweep_folder(tmp_path)


def reports(sweep: Path) -> Iterator[dict[str, Any]]:
    for trial in TRIALS:
        summary = json.loads((sweep / "trials" / trial / "summary.json").read_text())
        yield from (*summary["records"], *summary["controls"].values())


def test_measures_of_our_own(copied: Path, dmsae_here: Here) -> None:
    cycles = copied.parent.parent / "cycles"
    lost = next(r["key"] for r in reports(copied) if r["arm"] == "gaussian")
    whole = (cycles / lost / "sae" / "sae.safetensors").read_bytes()
    (cycles / lost / "sae" / "sae.safetensors").write_bytes(whole[:1000])
    first = dmsae_here("eval", copied, "--evals", "own")
    # Both trials share cycle 0; of one control the file is damaged, which takes no other along.
    assert "5 SAEs x 1 evaluations: 5\n" in first.stdout and first.returncode == 1
    (failed,) = [line for line in first.stdout.splitlines() if " failed: " in line]
    assert "control gaussian: own failed: " in failed and "sae.safetensors" in failed
    assert "1 of 5 evaluations failed; the same command runs them again" in first.stdout

    (cycles / lost / "sae" / "sae.safetensors").write_bytes(whole)
    second = dmsae_here("eval", copied, "--evals", "own")
    assert "5 SAEs x 1 evaluations: 5, 4 of them kept from before\n" in second.stdout
    assert second.returncode == 0 and "1 of 1: " in second.stdout

    rows = json.loads((copied / "quality.json").read_text())["saes"]
    by_key = {r["key"]: r for r in reports(copied)}
    assert {row["key"] for row in rows} < by_key.keys() and len(rows) == 5
    for row in rows:  # what was measured when the SAE was trained is measured again
        for name in ("fvu", "loss_recovered", "l0_core"):
            assert row["metrics"][f"own/{name}"] == pytest.approx(by_key[row["key"]]["metrics"][name], rel=1e-4)
        assert row["l0"] == by_key[row["key"]]["metrics"]["l0"]

    client = MlflowClient(f"sqlite:///{copied.parent.parent / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "small"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for row in rows:
        name = row["trial"] + (" gaussian" if row["arm"].startswith("gaussian") else "")
        steps = {m.step: m.value for m in client.get_metric_history(runs[name].info.run_id, "own/kl")}
        assert steps[row["cycle"]] == pytest.approx(row["metrics"]["own/kl"], rel=1e-3)
    sweep_run = next(run for run in runs.values() if run.info.run_name == copied.name)
    assert "quality.html" in {file.path for file in client.list_artifacts(sweep_run.info.run_id)}

    written = dmsae_here("report", copied, "--no-latents")
    assert written.returncode == 0 and '<section id="quality">' in (copied / "report.html").read_text()


def test_saebench_s_core(
    copied: Path,
    dmsae_here: Here,
    saebench: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = dmsae_here("eval", copied, "--evals", "core", "--trials", "*tau0.3*", "--cycles", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((copied / "quality.json").read_text())["saes"]
    (report,) = [r for r in reports(copied) if r["key"] == row["key"]]
    # SAEBench leaves EOS out of its L0, and we leave out high norms: a token or two in two thousand.
    assert row["metrics"]["core/l0"] == pytest.approx(report["metrics"]["l0"], rel=0.02)
    assert row["metrics"]["core/ce_loss_score"] == pytest.approx(report["metrics"]["loss_recovered"], abs=0.05)


def test_bad_input_is_one_line(copied: Path, dmsae_here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("work was given to Ray")

    monkeypatch.setattr("dmsae_ray.sweep.tasks.run_tasks", started)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(copied))
    for arguments, message in (
        ((), "SWEEP is missing; it is the folder <output>/sweeps/<name>-<hash>"),
        ((copied.parent,), f"'{copied.parent}' is no sweep folder (it has no config.yaml)"),
        ((copied, "--evals", "cores"), "--evals is 'cores'; 'cores' is none: there are own, core, absorption, "),
        ((copied, "--evals", "ravel"), "--evals has 'ravel', which SAEBench 0.6.0 offers for gemma-2-2b and"),
        ((copied, "--evals", "scr"), "--evals has 'scr', which reads the data set LabHC/bias_in_bios: HF_HUB_OFFLINE"),
        ((copied, "--evals", "core", "--text", "benchmark"), "--evals has 'core', which reads the data set Skylion007"),
        ((copied, "--trials", "k9-*"), f"--trials has 'k9-*'; finished are {', '.join(TRIALS)}"),
        ((copied, "--cycles", "7"), "--cycles is '7'; no finished trial that did not collapse has such a cycle"),
        ((copied, "--cycles", "x"), "--cycles is 'x'; it must be numbers and ranges, as in 0,5,10-12"),
        ((copied, "--batch", 0), "--batch is 0; it must be at least 1"),
        (
            (copied, "--evals", "tpp", "--data", copied / "figures"),
            f"--data is '{copied / 'figures'}'; it must <name>.jsonl",
        ),
    ):
        done = dmsae_here("eval", *arguments)
        assert done.returncode == 2 and done.stderr.startswith(f"dmsae: error: {message}"), (arguments, done.stderr)
        assert done.stderr.count("\n") == 1
    # Nothing finished yet.
    for trial in TRIALS:
        (copied / "trials" / trial / "summary.json").unlink()
    done = dmsae_here("eval", copied)
    assert done.stderr == f"dmsae: error: '{copied}' has no finished trial: there is nothing to evaluate yet\n"
