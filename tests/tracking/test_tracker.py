"""The tracker against real MLflow stores: a SQLite file and a server process that dies and comes back."""

import contextlib
import itertools
import math
import os
import random
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.tracking.destination import Destination, destination_of
from dmsae_ray.tracking.journal import Journal, JournalEntry
from dmsae_ray.tracking.sink import MlflowSink
from dmsae_ray.tracking.tracker import DELIVERED_FILE, SweepTracker
from dmsae_ray.tracking.troubles import reason_of
from tests.mlflow_stores import Server, free_port, history, runs
from tests.optional import left_out
from tests.proxy import proxy

STEPS = 12
FINALS = {"carryover": 0.5, "core_size": 16, "l0_core": 7.5, "l0_non_core": 4.0, "fvu": 0.2, "loss_recovered": math.nan}


def run_sweep(tracker: SweepTracker, trials: int = 2) -> int:
    tracker.start({"k": "2, 4", "note": None})
    for n in range(trials):
        name = f"k{n}-tau0.9-seed0"
        tracker.run(name, {"k": n, "coverage": 0.9, "seed": 0})
        for step in range(STEPS):
            tracker.metrics(name, "train", {"train/loss": 1 / (step + 1), "train/l0_core": step}, step * 512)
        tracker.metrics(name, "final", FINALS, 0)
        tracker.end(name)
    return tracker.close()


def check(uri: str, experiment: str, trials: int = 2) -> None:
    """One parent, a child per trial, and every row exactly once."""
    parents, children = runs(uri, experiment)
    assert len(parents) == 1 and len(children) == trials
    assert parents[0].info.status == "FINISHED"
    for n, child in enumerate(children):
        assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert child.data.params == {"k": str(n), "coverage": "0.9", "seed": "0"}
        assert child.info.status == "FINISHED"
        assert history(uri, child, "train/l0_core") == [(s * 512, float(s)) for s in range(STEPS)]
        finals = {name: child.data.metrics[name] for name in FINALS}
        assert math.isnan(finals.pop("loss_recovered"))
        assert finals == {name: value for name, value in FINALS.items() if name != "loss_recovered"}
        assert all(len(history(uri, child, name)) == 1 for name in FINALS)


def test_search_api_shows_one_parent_and_its_children(sqlite: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "someone else's")
    assert run_sweep(SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")) == 0
    check(sqlite, "demo")
    parents, children = runs(sqlite, "demo")
    assert parents[0].data.params == {"k": "2, 4"} and parents[0].data.tags["dmsae.sweep_id"] == "demo-1"
    client = MlflowClient(sqlite)
    found = client.search_runs([children[0].info.experiment_id], "params.k = '1' and metrics.carryover > 0.4")
    assert [r.info.run_id for r in found] == [children[1].info.run_id]


def test_running_twice_logs_nothing_twice(sqlite: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert run_sweep(SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")) == 0
    check(sqlite, "demo")


def test_nothing_secret_is_written(tmp_path: Path) -> None:
    destination = Destination("postgresql://ada:lovelace@localhost/db")
    assert "lovelace" not in destination.shown
    tracker = SweepTracker("postgresql+nodriver://ada:lovelace@127.0.0.1:1/db", "demo", tmp_path / "sweep", "demo-1")
    with pytest.raises(ConfigError) as caught:
        tracker.start()
    assert "lovelace" not in str(caught.value) + "".join(p.read_text() for p in (tmp_path / "sweep").iterdir())


def test_a_crash_between_delivery_and_position_changes_nothing(sqlite: str, tmp_path: Path) -> None:
    run_sweep(SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1"))
    (tmp_path / "sweep" / DELIVERED_FILE).unlink()
    again = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
    again.start()
    assert again.flush(30) == 0 and again.close() == 0
    check(sqlite, "demo")


def test_another_store_or_a_deleted_run_gets_the_whole_journal(sqlite: str, tmp_path: Path) -> None:
    run_sweep(SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1"))
    parent, children = runs(sqlite, "demo")
    MlflowClient(sqlite).delete_run(children[1].info.run_id)
    for uri in (sqlite, f"sqlite:///{tmp_path / 'elsewhere.db'}"):
        again = SweepTracker(uri, "demo", tmp_path / "sweep", "demo-1")
        again.start()
        assert again.close() == 0
        check(uri, "demo")
    assert runs(sqlite, "demo")[0][0].info.run_id == parent[0].info.run_id


def test_two_concurrent_sweeps_share_a_database_that_does_not_exist_yet(new_database: str, tmp_path: Path) -> None:
    sqlite = new_database
    trackers = [SweepTracker(sqlite, f"demo{n}", tmp_path / f"sweep{n}", "demo-1") for n in range(2)]
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(run_sweep, trackers)) == [0, 0]
    check(sqlite, "demo0")
    check(sqlite, "demo1")


def test_two_folders_with_one_sweep_id_do_not_mix(sqlite: str, tmp_path: Path) -> None:
    for n in range(2):
        run_sweep(SweepTracker(sqlite, "demo", tmp_path / f"sweep{n}", "demo-1"))
    parents, children = runs(sqlite, "demo")
    assert len(parents) == 2 and len(children) == 4


def test_status_follows_an_interrupted_sweep(sqlite: str, tmp_path: Path) -> None:
    def states() -> list[str]:
        parents, children = runs(sqlite, "demo")
        return [r.info.status for r in (*parents, *children)]

    for ending in ("KILLED", "FAILED", "KILLED"):
        tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
        tracker.start()
        tracker.run("k0-tau0.9-seed0", {"k": 0, "coverage": 0.9, "seed": 0})
        assert tracker.flush(30) == 0
        assert states() == ["RUNNING", "RUNNING"]
        tracker.close(ending)  # type: ignore[arg-type]
        assert states() == [ending, ending]
    run_sweep(SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1"))
    check(sqlite, "demo")


def test_limits_of_mlflow_are_kept(sqlite: str, tmp_path: Path) -> None:
    tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
    tracker.start({"long": "x" * 7000, **{f"p{n}": n for n in range(230)}})
    tracker.metrics(None, "many", {f"m{n}": n for n in range(2300)} | {"odd name: é": 1.0, "inf": math.inf}, 3)
    tracker.metrics(None, "read", {"third": 1 / 3, "small": 2e-9 / 3, "count": 1363472167424}, 3)
    assert tracker.close() == 0
    run = runs(sqlite, "demo")[0][0]
    read = {name: run.data.metrics[name] for name in ("third", "small", "count")}
    assert read == {"third": 0.3333, "small": 6.667e-10, "count": 1363472167424}, "four digits, counts whole"
    assert len(run.data.metrics) == 2305 and len(run.data.params) == 231
    assert len(run.data.params["long"]) == 6000 and run.data.params["long"].endswith("... (cut, 7000 characters)")


def test_what_the_server_refuses_does_not_hold_up_the_rest(sqlite: str, tmp_path: Path, caplog: Any) -> None:
    tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
    tracker.start()
    client = MlflowClient(sqlite)
    client.log_param(tracker.parent_run_id, "k", "set by hand")
    tracker.params({"a": 1, "k": 2, "z": 3})
    assert tracker.close() == 0
    assert runs(sqlite, "demo")[0][0].data.params == {"a": "1", "k": "set by hand", "z": "3"}
    assert "refused k" in caplog.text


def test_artifacts_are_attached_and_replaced_when_they_change(sqlite: str, tmp_path: Path) -> None:
    figure = tmp_path / "sweep" / "figures" / "one.txt"
    figure.parent.mkdir(parents=True)
    for content in ("first", "second", "second"):
        figure.write_text(content)
        tracker = SweepTracker(destination_of(experiment(tmp_path, sqlite)), "demo", tmp_path / "sweep", "demo-1")
        tracker.start()
        tracker.artifact(figure)
        assert tracker.close() == 0
        parent = runs(sqlite, "demo")[0][0].info.run_id
        attached = MlflowClient(sqlite).download_artifacts(parent, "figures/one.txt", str(tmp_path))
        assert Path(attached).read_text() == content
    assert (tmp_path / "out" / "mlartifacts" / parent / "artifacts" / "figures" / "one.txt").is_file()


def experiment(output: Path, uri: str | None) -> Any:
    return parse_experiment({"name": "demo", "output": str(output), "tracking": {"uri": uri}})


def test_destination_is_the_setting_then_the_environment_then_a_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    default = destination_of(experiment(tmp_path, None))
    assert default.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert default.artifacts == (tmp_path / "mlartifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://10.0.0.1:5000")
    assert destination_of(experiment(tmp_path, None)).uri == "http://10.0.0.1:5000"
    assert destination_of(experiment(tmp_path, "http://10.0.0.2:5000")).uri == "http://10.0.0.2:5000"
    with pytest.raises(ConfigError, match=r"^tracking\.uri is 'mlruns'; give "):
        destination_of(experiment(tmp_path, "mlruns"))


@pytest.mark.parametrize("name", ["50% #1 [x] a=b%20c?d", "a b", "ü", "a?mode=ro", "%41", "x#y", "a&b;c"])
def test_the_file_that_is_opened_is_the_file_meant(
    name: str, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    shutil.copy(empty_database, tmp_path / name / "mlflow.db")
    ours = Destination.of_file(tmp_path / name / "mlflow.db")
    assert ours.sqlite_file == tmp_path / name / "mlflow.db"
    tracker = SweepTracker(ours, "demo", tmp_path / "sweep", "demo-1")
    tracker.start()
    assert tracker.close() == 0
    with closing(sqlite3.connect(tmp_path / name / "mlflow.db")) as database:
        assert database.execute("select count(*) from runs").fetchone() == (1,)
    assert {path.name for path in tmp_path.iterdir()} == {name, "sweep"}
    # As a setting, relative to where the command is given, it is the same file, wherever the sweep goes on.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path / name)
    given = experiment(tmp_path, "sqlite:///mlflow.db").located()
    monkeypatch.chdir("/")
    assert destination_of(given).sqlite_file == tmp_path / name / "mlflow.db"
    assert given.located() == given


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:{port}", "sqlite:////proc/no/mlflow.db", "sqlite:///{folder}", "sqlite:///{text}"]
)
def test_an_unreachable_store_is_one_line_within_seconds(uri: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database " * 100)
    uri = uri.format(port=free_port(), folder=tmp_path, text=tmp_path / "text")
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        SweepTracker(uri, "demo", tmp_path / "sweep", "demo-1").start()
    assert time.monotonic() - begun < 10
    message = str(caught.value)
    assert message.startswith(f"tracking.uri is '{uri}'") and "http://host:port" in message and "\n" not in message


def test_a_server_that_takes_the_call_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ConfigError, match="no answer within 1 s"):
            SweepTracker(uri, "demo", tmp_path / "sweep", "demo-1", start_timeout=1).start()


def test_a_server_that_is_not_mlflow_is_named_so(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{web.server_port}"
        with pytest.raises(ConfigError, match="answers 404, not as an MLflow server does"):
            SweepTracker(uri, "demo", tmp_path / "sweep", "demo-1").start()
        web.shutdown()


@pytest.mark.slow
def test_an_outage_stops_nothing_and_all_arrives_once(server: Server, tmp_path: Path) -> None:
    tracker = SweepTracker(server.uri, "outage", tmp_path / "sweep", "outage-1")
    tracker.start({"k": "2, 4"})
    name = "k0-tau0.9-seed0"
    tracker.run(name, {"k": 0, "coverage": 0.9, "seed": 0})
    tracker.metrics(name, "train", {"train/l0_core": 0.0}, 0)
    assert tracker.flush(30) == 0
    server.kill()
    begun = time.monotonic()
    for step in range(1, STEPS):
        tracker.metrics(name, "train", {"train/l0_core": step}, step * 512)
    assert time.monotonic() - begun < 2, "training waits for the server"
    assert tracker.undelivered == STEPS - 1
    server.start()
    assert tracker.flush(60) == 0
    tracker.metrics(name, "final", FINALS, 0)
    tracker.end(name)
    assert tracker.close() == 0
    check(server.uri, "outage", trials=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["500", "hang", "lost", "reset"])
def test_requests_that_fail_lose_and_double_nothing(
    server: Server, tmp_path: Path, monkeypatch: Any, caplog: Any, kind: str
) -> None:
    """Every second request for a while, from the making of the first run on; `lost`: the server did what it says."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    count, until = itertools.count(), 0.0

    def fault() -> str | None:
        return kind if time.monotonic() < until and next(count) % 2 else None

    with proxy(server.port, fault) as way:
        tracker = SweepTracker(f"http://127.0.0.1:{way}", f"fault {kind}", tmp_path / "sweep", f"{kind}-1")
        tracker.start({"k": "2, 4"})
        until = time.monotonic() + 6.0
        for n in range(2):
            name = f"k{n}-tau0.9-seed0"
            tracker.run(name, {"k": n, "coverage": 0.9, "seed": 0})
            for step in range(STEPS):
                tracker.metrics(name, "train", {"train/l0_core": step}, step * 512)
                time.sleep(0.05)
            tracker.metrics(name, "final", FINALS, 0)
            tracker.end(name)
        assert tracker.close() == 0
    assert next(count) > 2
    check(server.uri, f"fault {kind}")
    assert caplog.text.count("tracking does not answer") == caplog.text.count("tracking works again")


@pytest.mark.slow
def test_a_server_that_loses_a_fifth_of_its_answers_gets_all_that_waits(server: Server, tmp_path: Path) -> None:
    """No delivery of many requests would ever succeed as a whole."""
    choose = random.Random(0)
    with proxy(server.port, lambda: "lost" if choose.random() < 0.2 else None) as way:
        tracker = SweepTracker(f"http://127.0.0.1:{way}", "fifth", tmp_path / "sweep", "fifth-1", start_timeout=60)
        tracker.start()
        for n in range(6):
            tracker.run(f"k{n:02}-tau0.9-seed0", {"k": n})
            tracker.metrics(f"k{n:02}-tau0.9-seed0", "final", {"fvu": n}, 0)
        assert tracker.flush(60) == 0
        tracker.close()
    parents, children = runs(server.uri, "fifth")
    assert len(parents) == 1 and [child.data.metrics["fvu"] for child in children] == list(range(6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("500", "it answers 500"),
        ("reset", "it breaks connections off"),
        ("hang", "timed out"),
        ("429", "it answers 429"),
    ],
)
def test_what_a_server_does_wrong_is_said_in_words(server: Server, monkeypatch: Any, kind: str, said: str) -> None:
    for name, value in (("MAX_RETRIES", "0"), ("TIMEOUT", "1")):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    with proxy(server.port, lambda: kind) as way, pytest.raises(Exception, match="failed with") as caught:
        MlflowClient(f"http://127.0.0.1:{way}").search_experiments()
    assert reason_of(caught.value) == said


@pytest.mark.slow
def test_what_close_leaves_is_delivered_first_at_the_next_start(server: Server, tmp_path: Path, caplog: Any) -> None:
    tracker = SweepTracker(server.uri, "left", tmp_path / "sweep", "left-1", close_timeout=1)
    tracker.start()
    assert tracker.flush(30) == 0
    server.kill()
    name = "k0-tau0.9-seed0"
    tracker.run(name, {"k": 0, "coverage": 0.9, "seed": 0})
    for step in range(STEPS):
        tracker.metrics(name, "train", {"train/l0_core": step}, step * 512)
    tracker.metrics(name, "final", FINALS, 0)
    tracker.end(name)
    begun = time.monotonic()
    left = tracker.close()
    assert time.monotonic() - begun < 5
    assert left == 1 + 3 + STEPS + 1 + 2 and f"{left} records are not delivered" in caplog.text
    server.start()
    again = SweepTracker(server.uri, "left", tmp_path / "sweep", "left-1")
    again.start()
    assert again.close() == 0
    check(server.uri, "left", trials=1)


@pytest.mark.slow
def test_rows_whose_answer_was_lost_are_not_doubled_on_a_server(server: Server, tmp_path: Path) -> None:
    """The server wrote them, the crash came before the position was written."""
    tracker = SweepTracker(server.uri, "lost", tmp_path / "sweep", "lost-1")
    assert run_sweep(tracker) == 0
    os.unlink(tmp_path / "sweep" / DELIVERED_FILE)
    assert run_sweep(SweepTracker(server.uri, "lost", tmp_path / "sweep", "lost-1")) == 0
    check(server.uri, "lost")


def test_a_delivery_that_fails_half_way_is_repeated_whole(sqlite: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The real store, with the connection lost right after each of the first requests was carried out."""
    real = MlflowClient.log_batch
    lost: list[str] = []
    steps: list[int] = []

    def log_batch(self: MlflowClient, run_id: str, metrics: list[Metric] = [], **others: Any) -> None:  # noqa: B006
        real(self, run_id, metrics=metrics, **others)
        steps.extend(m.step for m in metrics if m.key == "train/loss" and m.step not in steps)
        if len(lost) < 3:
            lost.append(run_id)
            raise ConnectionError("connection lost")

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    assert run_sweep(SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")) == 0
    assert len(lost) == 3 and steps == [s * 512 for s in range(STEPS)]
    check(sqlite, "demo")


def test_sink_finds_a_run_whose_creation_was_not_answered(sqlite: str, tmp_path: Path) -> None:
    tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
    tracker.start()
    client = MlflowClient(sqlite)
    parent = client.get_run(tracker.parent_run_id)
    sink = MlflowSink(client, parent.info.experiment_id, parent.info.run_id, tmp_path)
    tracker.run("a", {"k": 1})
    assert tracker.flush(30) == 0
    sink.deliver([])  # it does not know of "a" yet
    assert not sink.has("a") and sink._run_of("a", 0) == runs(sqlite, "demo")[1][0].info.run_id
    tracker.close()


@pytest.mark.parametrize(
    "revision, said",
    [
        (
            "451aebb31d03",
            r"is of an older MLflow; keep a copy of it, then bring it up to date with: \S*mlflow db upgrade",
        ),
        ("ffffffffffff", r"is of a newer MLflow than \S+, which is installed here: install that one, or begin another"),
    ],
)
def test_a_database_of_another_mlflow_is_one_sentence_with_the_command(
    revision: str, said: str, empty_database: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a b" / "mlflow.db"
    file.parent.mkdir()
    shutil.copy(empty_database, file)
    with closing(sqlite3.connect(file)) as database:
        database.execute("update alembic_version set version_num = ?", (revision,))
        database.commit()
    with pytest.raises(ConfigError, match=rf"^MLflow's database '{file}' {said}[^\n]*$") as caught:
        SweepTracker(Destination.of_file(file), "demo", tmp_path / "sweep", "demo-1").start()
    command = str(caught.value).rpartition("up to date with: ")[2]
    assert "newer" in command or shlex.split(command)[-3:] == ["db", "upgrade", f"sqlite:///{file}"]


def test_a_journal_on_a_full_disk_waits_for_room_and_then_is_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]).returncode:
        left_out("no disk can be mounted here")
    try:
        entries = [JournalEntry(None, "metric", f"m{i}", 1.0, i) for i in range(100)]
        with Journal(disk / "journal.jsonl") as journal:
            journal.append(entries[:50], 1)
            whole = journal.path.read_bytes()
            with open(disk / "fill", "wb", 0) as fill, contextlib.suppress(OSError):
                while fill.write(b"x" * 4096):
                    pass
            many = [entry._replace(key=f"{entry.key}-{i}") for entry in entries for i in range(50)]
            with pytest.raises(ConfigError, match=rf"^output: {journal.path} cannot be written: No space left on dev"):
                journal.append(many, 2)
            assert journal.path.read_bytes() == whole
            (disk / "fill").unlink()
            assert journal.append(many, 3) == len(many)
        with Journal(disk / "journal.jsonl") as journal:
            assert journal.count == 50 + len(many)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_a_line_and_no_more(tmp_path: Path, empty_database: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]).returncode:
        left_out("no disk can be mounted here")
    try:
        shutil.copy(empty_database, disk / "mlflow.db")
        code = (
            "import sys, time; from pathlib import Path; from dmsae_ray.tracking import SweepTracker\n"
            "from dmsae_ray.tracking.destination import Destination\n"
            f"disk = Path({str(disk)!r})\n"
            "tracker = SweepTracker(Destination.of_file(disk / 'mlflow.db'), 'demo', disk.parent / 'sweep', 'demo-1')\n"
            "tracker.start(); tracker.run('a', {'k': 1}); tracker.flush(30)\n"
            "(disk / 'full').open('wb', 0).write(b'x' * 5_000_000)\n"
            "for step in range(3000): tracker.metrics('a', 'train', {'loss': 1.0, 'other': 2.0}, step)\n"
            "time.sleep(5); (disk / 'full').unlink(); assert tracker.flush(60) == 0; tracker.close()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        said = (done.stdout + done.stderr).splitlines()
        assert said == [
            "tracking does not answer; records wait in the journal (database or disk is full)",
            "tracking works again",
        ]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
