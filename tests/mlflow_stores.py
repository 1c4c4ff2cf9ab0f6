"""Real MLflow stores: a SQLite file, and a server on loopback that tests can kill and start again."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.small_sweep import environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # PYTEST_CURRENT_TEST and MLFLOW_RUN_ID are ours, not the server's.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "MLFLOW_"))}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes more, for what is not used here
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            # A process group of its own: the server's workers end with it.
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        limit = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
                assert time.monotonic() < limit, "the MLflow server does not come up"
                time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def runs(uri: str, experiment: str) -> tuple[list[Run], list[Run]]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    everything = client.search_runs([found.experiment_id])
    parents = [r for r in everything if "dmsae.sweep_id" in r.data.tags]
    children = [r for r in everything if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) + len(children) == len(everything)
    return parents, sorted(children, key=lambda r: r.data.tags["dmsae.trial_id"])


def history(uri: str, run: Run, key: str) -> list[tuple[int, float]]:
    """All rows of a metric, by step."""
    return sorted((m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, key))


@contextmanager
def views_of(sweep: Path) -> Iterator[dict[str, str]]:
    """The views that `dmsae ui` names for a sweep's folder, with their addresses, while it serves them."""
    command = [sys.executable, "-m", "dmsae_ray.cli", "ui", str(sweep), "--port", str(free_port()), "--no-browser"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), start_new_session=True
    )
    assert process.stdout is not None
    text = ""
    while "Ctrl-C ends it" not in text:
        line = process.stdout.readline()
        assert line, text
        text += line
    yield dict(re.findall(r"^(\S[^\n]*) - [^\n]*:\n  (http\S+)$", text, re.MULTILINE))
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 0, process.stdout.read()


@pytest.fixture
def new_database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def sqlite(tmp_path: Path, new_database: str, empty_database: Path) -> str:
    """A database whose tables are made already, which takes seconds."""
    (tmp_path / "out").mkdir()
    shutil.copy(empty_database, tmp_path / "out" / "mlflow.db")
    return new_database


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory):
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()
