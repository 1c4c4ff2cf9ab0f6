"""A sweep whose output is a bucket: another machine finds what the first has made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from dmsae_ray.config.experiment import load_experiment
from dmsae_ray.distill.core import load_core
from dmsae_ray.distill.cycle_store import DirectoryCycleStore
from dmsae_ray.results.folders import create_folders, experiment_of
from dmsae_ray.sweep.evaluating import EvaluationTask, evaluate_sae
from dmsae_ray.sweep.shared_cycles import cycle_store
from tests.optional import optional
from tests.s3_server import s3_server
from tests.saebench.saebench_here import saebench  # noqa: F401 - a fixture
from tests.small_sweep import TRIALS, environment, sweep_folder, trained_cycles, write_config
from tests.sweep.failing_storage import KEYS, failing_bucket

optional("moto.server")

OUTAGE_SECONDS = 10.0


@pytest.mark.sweep
def test_a_sweep_into_a_bucket(finished_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of all requests fails, and for a while every one; then its SAEs are evaluated."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)

    def machine(name: str, *arguments: str) -> str:
        """Run a command on a machine; what it printed. At its first it has nothing yet."""
        here = tmp_path / name
        here.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "dmsae_ray.cli", *arguments],
            cwd=here,
            env={**environment(), "DMSAE_CACHE": str(here / "cache")},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with failing_bucket(seed=0, share=0.05) as bucket:
        config = write_config(
            tmp_path,
            output=bucket.uri,
            name="small",
            distill={"coverage": 0.3, "cycles": 1, "controls": []},
            resources={"checkpoint_every_tokens": 10_240},
        )
        outage = bucket.fail(faults=45.0, outage=OUTAGE_SECONDS)
        machine("first", "distill", str(config))
        assert bucket.flaky.faults > 20
        found = bucket.files()
        keys = {path.split("/")[-2] for path in found if path.endswith("outcome.json")}
        # Cycle 1's key holds the rows of the core that was selected from cycle 0, bit for bit.
        assert len(keys) == 2 and keys <= trained_cycles(finished_sweep).keys()
        assert any(path.endswith("trials/k8-tau0.3-seed0/summary.json") for path in found)
        # Checkpoints were there (with the first one the outage began), and are not needed any more.
        assert not outage.is_alive() and not any("/train/" in path for path in found)
        printed = machine("second", "distill", str(config))
        assert "all 1 trials are finished" in printed

        # What is found out is kept in the bucket, beside the SAE.
        (sweep,) = (tmp_path / "second").glob("dmsae-runs/sweeps/small-*")
        printed = machine("second", "eval", str(sweep), "--evals", "own")
        assert "2 SAEs x 1 evaluations: 2\n" in printed
        (other,) = (tmp_path / "first").glob("dmsae-runs/sweeps/small-*")
        assert "2, 2 of them kept from before\n" in machine("first", "eval", str(other), "--evals", "own")
        assert (other / "quality.html").is_file() and (other / "quality.json").read_text() == (
            sweep / "quality.json"
        ).read_text()

    assert (tmp_path / "first" / "dmsae-runs" / "mlflow.db").is_file()
    assert [path.name for path in (tmp_path / "first").iterdir() if path.name.startswith("s3")] == []
    summaries = list(tmp_path.glob("*/dmsae-runs/sweeps/small-*/trials/*/summary.json"))
    assert len(summaries) == 2
    for summary in summaries:
        assert json.loads(summary.read_text())["core_sizes"][0] > 0
        assert "not-so-secret" not in (summary.parents[2] / "config.yaml").read_text()
        assert len(load_core(summary.parent / "core.safetensors")) > 0


@pytest.mark.sweep
def test_a_cycle_in_a_bucket_is_found_by_another_machine(
    finished_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    cycles = finished_sweep / "runs" / "cycles"
    key = next(path.name for path in sorted(cycles.iterdir()) if not path.name.startswith("."))
    outcome = DirectoryCycleStore(cycles).load(key)
    assert outcome is not None
    with s3_server() as options:
        place = f"s3://runs/cycles?{options}"
        fs.FileSystem.from_uri(place)[0].create_dir("runs/cycles")
        monkeypatch.setenv("DMSAE_CACHE", str(tmp_path / "first"))
        cycle_store(place).save(key, outcome)
        monkeypatch.setenv("DMSAE_CACHE", str(tmp_path / "second"))
        other = cycle_store(place)
        assert other.load("0" * 64) is None
        found = other.load(key)
    assert found is not None
    assert found.metrics == outcome.metrics and found.scores.equal(outcome.scores)
    for name, tensor in outcome.sae.state_dict().items():
        assert found.sae.state_dict()[name].equal(tensor), name


@pytest.mark.sweep
def test_saebench_reads_an_sae_in_a_bucket(
    finished_sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saebench: Path,  # noqa: F811 - a fixture
) -> None:
    """The task as a worker runs it: the SAE and the held-out tokens come from the bucket."""
    for name, value in (*KEYS.items(), ("HF_HUB_OFFLINE", "1"), ("DMSAE_CACHE", str(tmp_path / "cache"))):
        monkeypatch.setenv(name, value)
    environment = tmp_path / "cache" / saebench.parents[1].name
    environment.parent.mkdir()
    environment.symlink_to(saebench.parents[1])
    runs, sweep = finished_sweep / "runs", sweep_folder(finished_sweep)
    report = json.loads((sweep / "trials" / TRIALS[0] / "summary.json").read_text())["records"][-1]
    (store,) = (runs / "stores").iterdir()
    with s3_server() as options:
        places = {}
        for name in ("stores", "cycles"):
            places[name] = f"s3://runs/{name}?{options}"
            system, path = fs.FileSystem.from_uri(places[name])
            system.create_dir(path)
            fs.copy_files(str(runs / name), path, destination_filesystem=system)
        tree = experiment_of(sweep).model_dump(mode="json")
        task = EvaluationTask(
            tree, places["stores"], store.name, places["cycles"], report["key"], "core", own_text=True
        )
        outcome = evaluate_sae(task)
    assert not outcome.error, outcome.error + outcome.log
    # As from a disk: SAEBench leaves EOS out of its L0.
    assert outcome.metrics["l0"] == pytest.approx(report["metrics"]["l0"], rel=0.02)


def test_a_sweep_in_a_bucket_is_extended_from_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3_server() as options:
        output = f"s3://runs/team?{options}"
        fs.FileSystem.from_uri(output)[0].create_dir("runs/team")
        names, file = set(), write_config(tmp_path, output=output)
        for seed, machine in enumerate(["first", "second", "third", "first"]):
            (tmp_path / machine).mkdir(exist_ok=True)
            monkeypatch.chdir(tmp_path / machine)
            folders = create_folders(load_experiment(file, [f"sweep.seeds=[{seed}]"]))
            names.add(folders.name)
            assert set(experiment_of(folders.sweep).sweep.seeds) == set(range(seed + 1))
    assert len(names) == 1
