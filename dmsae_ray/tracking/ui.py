"""MLflow's pages for a sweep: a light server on this machine, and the address of the sweep in it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from dmsae_ray.config import Experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.tracking.destination import Destination, connect
from dmsae_ray.tracking.sink import find_sweep
from dmsae_ray.tracking.tracker import JOURNAL_FILE
from dmsae_ray.tracking.views import View, views_of_sweep

if TYPE_CHECKING:
    from mlflow import MlflowClient

HOST = "127.0.0.1"
_START_SECONDS = 120.0
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for what runs here do not use
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def views_in_store(
    destination: Destination, experiment: Experiment, name: str, sweep_dir: Path
) -> tuple[str, list[View]] | None:
    """Return the id of a sweep's MLflow experiment, and the views of the sweep; None if it is not in the store.

    Args:
        destination: The store.
        experiment: The experiment of the sweep.
        name: Name of its MLflow experiment.
        sweep_dir: Folder of the sweep.

    Raises:
        ConfigError: The store does not work.
    """
    journal = _journal_id(sweep_dir / JOURNAL_FILE)

    def look(client: "MlflowClient") -> tuple[str, str] | None:
        found = client.get_experiment_by_name(name)
        run = None if found is None else find_sweep(client, found.experiment_id, sweep_dir.name, journal)
        return None if found is None or run is None else (found.experiment_id, run)

    place = connect(destination, look, 60.0)
    if place is None:
        return None
    return place[0], views_of_sweep(experiment, place[1], sweep_dir.name)


def free_port(wanted: int) -> int:
    """Return `wanted`, or the next port that is free on this machine.

    Raises:
        ConfigError: None of the next hundred is free.
    """
    for port in range(wanted, min(wanted + 100, 65536)):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise ConfigError(f"--port is {wanted}; neither it nor the ports after it are free on {HOST}")


@contextlib.contextmanager
def ui_server(destination: Destination, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve MLflow's pages of a database on this machine, from the moment when they answer; the end stops the server.

    Raises:
        ConfigError: The server ends, or does not answer within two minutes.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", destination.uri, "--workers", "1"]
    command += ["--host", HOST, "--port", str(port)]
    with TemporaryFile() as log:
        # A group of its own: what it starts ends with it, and Ctrl-C comes to us first.
        process = subprocess.Popen(
            command, env={**os.environ, **_ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            limit = time.monotonic() + _START_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > limit:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip().splitlines()
                    raise ConfigError(f"MLflow's server does not come up: {said[-1] if said else 'it says nothing'}")
                time.sleep(0.1)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2).close()
    except OSError:
        return False
    return True


def _journal_id(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError), open(path, encoding="utf-8") as file:
        return str(json.loads(file.readline())["journal"])
    return ""
