"""`dmsae eval` on a finished sweep: real Ray tasks, MLflow, the report; and what is wrong is one line."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dmsae_ray.config import load_experiment
from dmsae_ray.files import retry
from dmsae_ray.results.begun import folder_name
from dmsae_ray.sae import MatryoshkaSAE, load_sae, save_sae
from dmsae_ray.saebench import Outcome
from dmsae_ray.sweep.evaluating import EvaluationTask, evaluate_sae
from dmsae_ray.tracking.journal import Journal
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
    assert f"control gaussian: own failed: cycle: {cycles}/{lost[:8]}" in failed
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


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[EvaluationTask]:
    """The tasks that were given to Ray; in place of measuring them, each gives a number at once."""
    asked: list[EvaluationTask] = []

    def at_once(_: object, work: list[tuple[EvaluationTask]], **__: object) -> Iterator[tuple[int, Outcome]]:
        for n, (task,) in enumerate(work):
            asked.append(task)
            name = "kl" if task.evaluation == "own" else "ce_loss_score"
            yield n, Outcome({name: 0.5 + len(asked) / 1000}, {}, "cpu", 0.1)

    monkeypatch.setattr("dmsae_ray.sweep.tasks.run_tasks", at_once)
    monkeypatch.setattr("dmsae_ray.saebench.environment.make_environment", lambda _: Path("python"))
    monkeypatch.setattr("dmsae_ray.saebench.suite._unreachable", lambda _: None)
    return asked


def shown(page: Path) -> dict[str, set[str]]:
    """The numbers in a page by trial and cycle."""
    found: dict[str, set[str]] = {}
    for row in json.loads(page.with_suffix(".json").read_text())["saes"]:
        found.setdefault(f"{row['trial']} {row['cycle']}", set()).update(row["metrics"])
    return found


def test_the_page_has_all_that_is_kept(copied: Path, dmsae_here: Here, measured: list[EvaluationTask]) -> None:
    page, (one, two) = copied / "quality.html", TRIALS
    own, core = {"own/kl"}, {"core/ce_loss_score"}
    for arguments, expected in (
        (("--evals", "own", "--trials", one, "--cycles", "1"), {f"{one} 1": own}),
        (("--evals", " core", "--trials", f" {one} ", "--text", "benchmark"), None),
        (("--evals", "own", "--trials", two, "--cycles", " 1 , last"), None),
    ):
        assert dmsae_here("eval", copied, *arguments).returncode == 0
        assert expected is None or shown(page) == expected
    # What is not asked for now is still shown, with the settings that it was measured with.
    found = shown(page)
    assert found[f"{one} 1"] >= own and found[f"{two} 1"] >= own and found[f"{one} 2"] == core
    assert json.loads((copied / "quality.json").read_text())["settings"]["core"]["text"]["context_size"] == 128
    assert "core read the data set Skylion007/openwebtext." in page.read_text()
    # With another text the numbers are others: those of before are not shown beside them, and not lost.
    before = len(measured)
    assert dmsae_here("eval", copied, "--evals", "core", "--trials", two, "--cycles", "1").returncode == 0
    assert len(measured) == before + 1 and measured[-1].own_text
    assert core <= shown(page)[f"{two} 1"] and f"{one} 2" not in shown(page)
    assert "core read the sweep&#x27;s held-out tokens." in page.read_text()
    again = dmsae_here("eval", copied, "--evals", "core", "--trials", one, "--text", "benchmark")
    assert "kept from before" in again.stdout and len(measured) == before + 1


def test_an_outage_of_the_storage_loses_no_outcome(
    copied: Path,
    dmsae_here: Here,
    measured: list[EvaluationTask],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def away(call: Callable[[], Any], what: str) -> Any:
        def refused() -> Any:
            if measured and "/eval-own-" in what and now[0] < 600:  # ten minutes from the first outcome on
                raise TimeoutError("no answer")
            return call()

        return retry.retry_outages(refused, what)

    monkeypatch.setattr("dmsae_ray.files.folder.retry_outages", away)
    done = dmsae_here("eval", copied, "--evals", "own", "--cycles", "1")
    assert done.returncode == 0 and now[0] >= 600, done.stderr
    assert "no answer; next try in " in caplog.text
    assert "kept from before" in dmsae_here("eval", copied, "--evals", "own", "--cycles", "1").stdout


def test_a_damaged_result_is_measured_again(copied: Path, dmsae_here: Here, measured: list[EvaluationTask]) -> None:
    cycles = copied.parent.parent / "cycles"
    assert dmsae_here("eval", copied, "--evals", "own").returncode == 0 and len(measured) == 5
    kept = sorted(cycles.glob("*/eval-own-*.json"))
    kept[0].write_text(kept[0].read_text()[:50])
    kept[1].write_text('{"outcome": {"metrics": 3, "versions": {}, "device": "", "seconds": 0}}')
    kept[2].write_text("[]")
    done = dmsae_here("eval", copied, "--evals", "own")
    assert done.returncode == 0 and len(measured) == 8
    assert "5 SAEs x 1 evaluations: 5, 2 of them kept from before\n" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert len(lines) == 3 and all(line.endswith("; it counts as not evaluated") for line in lines)


def test_while_the_sweep_runs_nothing_is_lost(copied: Path, dmsae_here: Here, measured: list[EvaluationTask]) -> None:
    journal = Journal(copied / "journal.jsonl")
    done = dmsae_here("eval", copied, "--evals", "own", "--cycles", "last")
    journal.close()
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("dmsae: ")]
    assert told.startswith("dmsae: MLflow has no record of this yet, the same command logs it: ")
    assert done.returncode == 0 and (copied / "quality.html").is_file()
    client = MlflowClient(f"sqlite:///{copied.parent.parent / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "small"]

    def logged() -> int:
        runs = client.search_runs([experiment.experiment_id])
        return sum("own/kl" in run.data.metrics for run in runs)

    assert logged() == 0
    again = dmsae_here("eval", copied, "--evals", "own", "--cycles", "last")
    assert "dmsae: " not in again.stdout and logged() == 4


def test_several_sweeps_are_in_one_page(
    copied: Path, finished_sweep: Path, tmp_path: Path, dmsae_here: Here, measured: list[EvaluationTask]
) -> None:
    shutil.copytree(finished_sweep / "runs", tmp_path / "again" / "runs")
    other = sweep_folder(tmp_path / "again")
    done = dmsae_here("eval", copied, other, "--evals", "own", "--out", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    assert "10 SAEs x 1 evaluations: 10\n" in done.stdout and f"  1 of 10: {copied}, {TRIALS[0]}, " in done.stdout
    rows = json.loads((tmp_path / "both" / "quality.json").read_text())["saes"]
    assert {row["sweep"] for row in rows} == {str(copied), str(other)} and len(rows) == 10
    assert f"report: {tmp_path / 'both' / 'quality.html'}\n" in done.stdout
    assert "bearing cores at most" in (tmp_path / "both" / "quality.html").read_text()
    for sweep in (copied, other):
        assert len(json.loads((sweep / "quality.json").read_text())["saes"]) == 5
        client = MlflowClient(f"sqlite:///{sweep.parent.parent / 'mlflow.db'}")
        (experiment,) = [e for e in client.search_experiments() if e.name == "small"]
        assert any("own/kl" in run.data.metrics for run in client.search_runs([experiment.experiment_id]))
    # Nothing is evaluated where the numbers would not be comparable.
    for name in ("config.yaml", "begun.yaml"):
        text = (other / name).read_text()
        (other / name).write_text(text.replace("layer: 1", "layer: 2"))
    moved = other.rename(other.with_name(folder_name(load_experiment(other / "begun.yaml"))))
    done = dmsae_here("eval", copied, moved)
    assert done.stderr == (f"dmsae: error: '{moved}' has model.layer = 2 and '{copied}' 1: they cannot be compared\n")
    assert (
        dmsae_here("eval", copied, copied).stderr == f"dmsae: error: SWEEP is '{copied}' twice; give each sweep once\n"
    )


def test_an_sae_of_another_width_or_with_a_fault_of_ours_takes_no_other_along(
    copied: Path, dmsae_here: Here, measured: list[EvaluationTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    dmsae_here("eval", copied, "--evals", "own", "--cycles", "1")
    place = copied.parent.parent / "cycles" / measured[0].key / "sae"
    sae = load_sae(place)
    shutil.rmtree(place)
    save_sae(MatryoshkaSAE(32, sae.n_latents, [sae.n_latents], sae.k), place)
    outcome = evaluate_sae(measured[0])
    assert "activations of width 32" in outcome.error and outcome.error.endswith(" has 64"), outcome.error

    def broken(_: object) -> None:
        raise RuntimeError("CUDA error: \n out of memory")

    monkeypatch.setattr("dmsae_ray.sweep.evaluating.measure_quality", broken)
    outcome = evaluate_sae(measured[0])
    assert outcome.error == "RuntimeError: CUDA error: out of memory" and "Traceback" in outcome.log


def test_what_only_another_machine_lacks(copied: Path, dmsae_here: Here, measured: list[EvaluationTask]) -> None:
    dmsae_here("eval", copied, "--evals", "own", "--cycles", "1", "--trials", TRIALS[0])
    lacks = replace(measured[0], evaluation="unlearning", forget_corpus="/gone")
    assert "--forget-corpus is '/gone'; " in evaluate_sae(lacks).error
    assert "OPENAI_API_KEY is not set on " in evaluate_sae(replace(lacks, evaluation="autointerp")).error
    assert replace(lacks, forget_corpus_sha256="1").file != replace(lacks, forget_corpus_sha256="2").file


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
        ((copied, "--out", "elsewhere"), "--out is 'elsewhere'; it is for several sweeps: the page of one is in"),
        ((), "SWEEP is missing; it is the folder <output>/sweeps/<name>-<hash>"),
        ((copied.parent,), f"'{copied.parent}' is no sweep folder (it has no config.yaml)"),
        ((copied, "--evals", "cores"), "--evals is 'cores'; 'cores' is none: there are own, core, absorption, "),
        ((copied, "--evals", "ravel"), "--evals has 'ravel', which SAEBench 0.6.0 offers for gemma-2-2b and"),
        ((copied, "--evals", "scr"), "--evals has 'scr', which reads the data set LabHC/bias_in_bios: HF_HUB_OFFLINE"),
        ((copied, "--evals", "core", "--text", "benchmark"), "--evals has 'core', which reads the data set Skylion007"),
        ((copied, "--trials", "k9-*"), f"--trials has 'k9-*'; finished and not collapsed are {TRIALS[0]}"),
        ((copied, "--cycles", "7"), "--cycles is '7'; no finished trial that did not collapse has such a cycle"),
        ((copied, "--cycles", "x"), "--cycles is 'x'; it must be numbers and ranges, as in 0,5,10-12"),
        ((copied, "--batch", 0), "--batch is 0; it must be at least 1"),
        (
            (copied, "--evals", "tpp", "--data", copied / "figures"),
            f"--data is '{copied / 'figures'}'; it must be a folder with <name>.jsonl",
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
