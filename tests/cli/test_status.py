"""`dmsae status`: what a sweep's files say, to the penny, from its own machine and from another one."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import Experiment, load_experiment
from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.files.folder import Folder
from dmsae_ray.plan.trials import expand
from dmsae_ray.results.folders import STORE_INPUT, Folders, create_folders
from dmsae_ray.results.reports import TrialReport
from dmsae_ray.results.trial import parse_result
from dmsae_ray.tracking.journal import Journal, JournalEntry, read_journal
from dmsae_ray.tracking.outline import read_outline
from dmsae_ray.tracking.tracker import SweepTracker
from dmsae_ray.tracking.trial_records import TrialRecords
from tests.optional import optional
from tests.report.summaries import CYCLES, make_summary, make_windows
from tests.s3_server import s3_server
from tests.small_sweep import write_config

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
A, B, C = "k8-tau0.3-seed0", "k8-tau0.6-seed0", "k8-tau0.9-seed0"
Say = Callable[..., Any]


@pytest.fixture
def status(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `dmsae status`; what it printed, or the tree of `--json`."""

    def run(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        assert main(["status", *map(str, arguments)]) == code
        said = capsys.readouterr()
        return said.err if code else json.loads(said.out) if "--json" in arguments else said.out

    return run


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Experiment, Folders]:
    """A sweep of three coverages, of which nothing but the folders is made."""
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(write_config(tmp_path, sweep={"coverage": [0.3, 0.6, 0.9]}))
    return experiment, create_folders(experiment)


def mark(folder: Folder, *, pid: int, host: str = socket.gethostname(), beat: int = 7, began: int = 0) -> None:
    tree = {"pid": pid, "host": host, "beat": beat, "owner": "x", "began": began}
    folder.write("controller.json", [json.dumps(tree).encode()])


def write_journal(path: Path, began: float) -> None:
    """A: its cycle 0 (in 100 s), half of cycle 1. C: failed. What an earlier process ran of B it runs no more."""
    with Journal(path) as journal:

        def note(at: float, run: str | None, kind: Any, key: str, value: Any, step: int = 0) -> None:
            journal.append([JournalEntry(run, kind, key, value, step)], round((began + at) * 1000))

        def curve(at: float, run: str, tokens: int) -> None:
            note(at, run, "metrics", "train", {"train/loss": 1.0}, tokens)

        note(-500, None, "run", "sweep", "small")
        note(-400, B, "run", B, "")
        curve(-300, f"{B}/cycle 0", 12_800)
        note(10, A, "run", A, "")
        for part in range(1, 6):
            curve(20 + 18 * part, f"{A}/cycle 0", 5120 * part)
        values = {"core_size": 12, "fvu": 0.25, "l0": 9.5, "seconds": 95.0}
        note(120, A, "metrics", "cycle", values, 0)
        curve(145, f"{A}/cycle 1", 6400)
        curve(170, f"{A}/cycle 1", 12_800)
        note(171, C, "run", C, "")
        note(172, C, "tag", "dmsae.failure", "a shard is damaged")
        note(172, C, "status", "status", "FAILED")


def test_a_running_sweep(begun: tuple[Experiment, Folders], status: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folders = begun
    now = time.time()
    began = now - 180
    shared = folders.output / "sweeps" / folders.name
    write_journal(folders.sweep / "journal.jsonl", began)
    records = len(list(read_journal(folders.sweep / "journal.jsonl")))
    (folders.sweep / "journal.delivered.json").write_text(json.dumps({"run": {"to": records - 3, "late": [2]}}))
    mark(shared, pid=os.getpid(), began=int(began))
    before = files_of(folders.home)
    monkeypatch.setattr("dmsae_ray.cli.status.time.time", lambda: now)
    tree = status(folders.sweep, "--json")
    assert files_of(folders.home) == before, "nothing was written or touched"
    assert (tree["state"], tree["controller"]["process"], tree["undelivered"]) == ("running", os.getpid(), 4)
    assert tree["harvest"] is None
    a, c, b = tree["trials"]
    assert [t["trial"] for t in (a, c, b)] == [A, C, B] and [t["state"] for t in (a, c, b)] == [
        "running",
        "failed",
        "waiting",
    ]
    assert (a["training"], a["share"], a["core"], a["fvu"], a["l0"], a["carryover"]) == (
        "1 of 2",
        0.5,
        12,
        0.25,
        9.5,
        None,
    )
    # 12,800 tokens in 50 s. It began 20 s into the session, and cycle 0 took 100 s: 50, two more, less 10 of silence.
    assert a["tokens_per_s"] == pytest.approx(256.0, rel=1e-3) and a["seconds_left"] == pytest.approx(240.0, rel=1e-2)
    assert c["reason"] == "a shard is damaged"
    # Two ran at once, so that there is a place for B: a start of 10 s and three trainings, its cycle 0 being found.
    assert tree["seconds_left"] == pytest.approx(10 + 300, rel=1e-2)
    assert (tree["trainings"], tree["trainings_in_all"]) == (1, 10)

    said = status(folders.sweep)
    assert said.startswith(f"sweep {folders.name}: running, by process {os.getpid()} on {socket.gethostname()} since ")
    assert "(3 min)" in said.splitlines()[0] or "(2 min)" in said.splitlines()[0]
    assert f"failed: {C}: a shard is damaged" in said and "MLflow: 4 records are not delivered yet" in said
    assert f"status --watch {folders.sweep}" in said and max(map(len, said.splitlines())) <= 160
    assert status(folders.output) == said, "the output of one sweep is enough"


def test_what_ran_before_the_process_began_runs_no_more(begun: tuple[Experiment, Folders], status: Say) -> None:
    """The process before was killed; the one that runs now has recorded nothing yet."""
    _, folders = begun
    write_journal(folders.sweep / "journal.jsonl", time.time() - 9000)
    mark(folders.output / "sweeps" / folders.name, pid=os.getpid(), began=int(time.time()) - 5)
    tree = status(folders.sweep, "--json")
    assert tree["state"] == "running" and {t["state"] for t in tree["trials"]} == {"failed", "waiting"}
    assert tree["seconds_left"] is None


def test_a_sweep_that_was_interrupted(begun: tuple[Experiment, Folders], status: Say) -> None:
    """Its process was killed, so that it could not even say goodbye."""
    _, folders = begun
    write_journal(folders.sweep / "journal.jsonl", time.time() - 9000)
    gone = next(pid for pid in range(400_000, 4_000_000) if not Path(f"/proc/{pid}").exists())
    mark(folders.output / "sweeps" / folders.name, pid=gone, began=int(time.time() - 9000))
    tree = status(folders.sweep, "--json")
    assert tree["state"] == "interrupted" and tree["seconds_left"] is None and tree["tokens_per_s"] is None
    assert {t["trial"]: (t["state"], t["training"]) for t in tree["trials"]} == {
        A: ("waiting", "0 of 2"),
        B: ("waiting", "-"),
        C: ("failed", "-"),
    }
    assert f"resume {folders.sweep}" in tree["next"][0]


def test_what_tracking_records_is_understood(begun: tuple[Experiment, Folders], status: Say) -> None:
    """The records of two trials, written by the tracker itself: one finished, one in its cycle 2."""
    experiment, folders = begun
    trials = [trial for trial in expand(experiment) if trial.trial_id != C]
    tracker = SweepTracker("sqlite:///nowhere.db", "small", folders.sweep, folders.name)
    tracker._journal, tracker._sender = Journal(folders.sweep / "journal.jsonl"), Nobody()  # type: ignore[assignment]
    records = TrialRecords(tracker, trials, 512, "cycles")
    for trial, cycles in zip(trials, (CYCLES, 1), strict=True):
        summary = make_summary(8, trial.params()["coverage"], 0)  # type: ignore[arg-type]
        records.begin(trial.trial_id, trial.params())
        for tree in summary["records"][: cycles + 1]:
            records.report(trial.trial_id, trial.params(), TrialReport(make_windows(tree["cycle"], "distilled")))
            records.report(trial.trial_id, trial.params(), TrialReport(cycles=(CycleReport(**tree),)))
        if cycles == CYCLES:
            records.finish(parse_result({**summary, "params": trial.params()}))
    mark(folders.output / "sweeps" / folders.name, pid=os.getpid(), began=int(time.time()) - 60)
    last = make_summary(8, 0.3, 0)["records"][-1]
    finished, running = (
        next(t for t in status(folders.sweep, "--json")["trials"] if t["trial"] == name) for name in (A, B)
    )
    for name in (A, B):
        tracker.end(name, "KILLED")
    tracker._journal.close()
    assert (finished["state"], finished["core"], finished["trainings"]) == ("finished", last["n_core"], CYCLES + 2)
    assert finished["fvu"] == pytest.approx(last["metrics"]["fvu"], rel=1e-3)
    assert finished["carryover"] == pytest.approx(last["carryover"], rel=1e-3)
    assert (running["state"], running["trainings"], running["cycle"]) == ("running", 2, 2)
    mark(folders.output / "sweeps" / folders.name, pid=os.getpid(), beat=-1)
    assert status(folders.sweep, "--json")["state"] == "interrupted"


def test_of_another_machine_the_bucket_says_what_it_can(
    tmp_path: Path, status: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    optional("moto.server")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3_server() as options:
        output = f"s3://runs/team?{options}"
        fs.FileSystem.from_uri(output)[0].create_dir("runs")
        place = write_config(tmp_path, sweep={"coverage": [0.3, 0.6, 0.9]})
        folders = create_folders(load_experiment(place, [f"output={output}"]))
        shared = folders.output / "sweeps" / folders.name
        summary = {**make_summary(8, 0.3, 0), "trial_id": A}
        (shared / "trials" / A).write("summary.json", [json.dumps(summary).encode()])
        (shared / "train" / B).write("attempts.json", [b"{}"])
        (folders.output / "cycles" / "abc").write("outcome.json", [b"{}"])
        shared.write("inputs.json", [json.dumps({STORE_INPUT: "key"}).encode()])
        draft = json.dumps({"token_checksums": {"train-000000": "1", "train-000001": "2"}})
        (folders.output / "stores" / "key" / "tokens").write("draft.json", [draft.encode()])
        mark(shared, pid=4, host="head", beat=-1)
        monkeypatch.chdir(tmp_path / "here")  # another machine has no journal
        for given in (output, shared.uri):
            tree = status(given, "--json")
            assert {t["trial"]: t["state"] for t in tree["trials"]} == {A: "finished", B: "waiting", C: "waiting"}
            assert (tree["state"], tree["undelivered"]) == ("interrupted", None)
            assert tree["harvest"] == {"stage": "tokens", "done": 2, "total": 0}
        assert next(t for t in tree["trials"] if t["trial"] == A)["core"] == summary["records"][-1]["n_core"]
        said = status(output)
        assert "harvest: tokens: 2 shards written\n" in said
        assert "note: the journal is on head" in said and "note: 1 training" in said and "secret" not in said
        assert not list((tmp_path / "here").iterdir())


def test_a_place_without_a_sweep_is_said_in_one_line(tmp_path: Path, status: Say) -> None:
    line = status(tmp_path, code=2)
    assert line.count("\n") == 1 and f"'{tmp_path}' is neither a sweep's folder nor an output with sweeps" in line
    assert "password" in status("s3://key:secret@runs/team", code=2)


def test_an_outline_lacks_the_middle_of_curves_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for name in ("one", "two"):
            journal.append([JournalEntry(name, "run", name, "")], 5)
            for step in range(1, 31):
                journal.append([JournalEntry(f"{name}/cycle 0", "metrics", "train", {"train/loss": 0.5}, step)], step)
            journal.append([JournalEntry(name, "metrics", "cycle", {"fvu": float("nan")}, 0)], 99)
    with open(path, "ab") as file:
        file.write(b'{"seq":65,"time":5,"tri')  # it is being written
    whole, outline = list(read_journal(path)), read_outline(path)
    kept = {1, 2, *range(25, 31)}
    expected = [r for r in whole if r.key != "train" or r.step in kept]
    assert [r.seq for r in outline] == [r.seq for r in expected] and len(outline) == 2 * (1 + 8 + 1)
    assert repr(outline) == repr(expected)
    assert read_outline(tmp_path / "none") == []


class Nobody:
    """Delivers nothing."""

    def wake(self) -> None:
        pass


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
