"""Commands on a sweep's records: `dmsae ui` shows them in MLflow's pages, `dmsae sync` delivers what is kept back."""

import contextlib
import os
import sys
import webbrowser
from pathlib import Path

from dmsae_ray.config import Experiment, shell_command
from dmsae_ray.errors import ConfigError
from dmsae_ray.results import experiment_of
from dmsae_ray.tracking import (
    Destination,
    SweepTracker,
    destination_of,
    free_port,
    ui_server,
    views_in_store,
    views_of,
)

_LINE_SECONDS = 5.0
_MOST_SWEEPS = 10


def show(folder: str, port: int, *, browser: bool) -> int:
    """Open MLflow's pages on a sweep, or on the sweeps of an output folder, the newest first.

    Args:
        folder: A sweep's folder, or an output folder with an mlflow.db.
        port: Port of the server; the next free one is taken if it is not free.
        browser: Open the first page in a browser, where there is one.

    Returns:
        The exit code.

    Raises:
        ConfigError: The folder is neither, or the store or its server does not work.
    """
    path = Path(folder).expanduser().absolute()
    if (path / "config.yaml").is_file():
        sweeps = [path]
        destination = destination_of(experiment_of(path))
    elif (path / "mlflow.db").is_file():
        found = sorted((path / "sweeps").glob("*/config.yaml"), key=lambda file: -file.stat().st_mtime)
        sweeps = [file.parent for file in found[:_MOST_SWEEPS]]
        destination = Destination.of_file(path / "mlflow.db")
    else:
        raise ConfigError(f"'{folder}' is neither a sweep folder nor an output folder with an mlflow.db")
    places = [(sweep, place) for sweep in sweeps if (place := _place(destination, sweep)) is not None]
    if destination.sqlite_file is None:
        _say(destination.shown, places, browser)
        return 0
    taken = free_port(port)
    if taken != port:
        print(f"port {port} is in use; this is on port {taken}")
    print("MLflow's server starts ...", flush=True)
    with ui_server(destination, taken) as server:
        _say(f"http://127.0.0.1:{taken}", places, browser)
        print("Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
            raise ConfigError("MLflow's server has ended")
    return 0


def sync(folder: str) -> int:
    """Deliver to MLflow what is kept back in a sweep's journal; runs that a killed command left open are ended.

    Returns:
        The exit code: 0 if all is delivered.

    Raises:
        ConfigError: It is no sweep folder, the sweep runs, or the store does not answer.
        DataError: The journal is corrupt.
    """
    tracker = SweepTracker.of(experiment_of(folder), Path(folder).expanduser().absolute())
    tracker.open()
    try:
        while left := tracker.flush(_LINE_SECONDS):
            print(f"{left:,} records are to be delivered to {tracker.destination.shown}", flush=True)
    finally:
        left = tracker.close("KILLED" if tracker.status == "RUNNING" else None)
    print(f"{tracker.destination.shown} has all records" if not left else f"{left:,} records are left")
    return int(left > 0)


def where_to_look(tracker: SweepTracker, experiment: Experiment) -> str:
    """Return what a person does to see a sweep in MLflow's pages: an address, or the command that serves them."""
    if tracker.destination.sqlite_file is not None:
        return shell_command("dmsae", "ui", tracker.sweep_dir)
    return views_of(tracker, experiment)[0].address(tracker.destination.shown, tracker.experiment_id)


def _place(destination: Destination, sweep: Path) -> tuple[str, list[tuple[str, str]]] | None:
    """Return the id of a sweep's MLflow experiment, and its views as names and addresses below the server's."""
    with contextlib.suppress(ConfigError):
        experiment = experiment_of(sweep)
        name = experiment.tracking.experiment or experiment.name
        found = views_in_store(destination, experiment, name, sweep)
        if found is not None:
            return found[0], [(view.name, view.address("", found[0])) for view in found[1]]
    return None


def _say(server: str, places: list[tuple[Path, tuple[str, list[tuple[str, str]]]]], browser: bool) -> None:
    addresses = [(name, f"{server.rstrip('/')}{page}") for _, (_, views) in places for name, page in views]
    if not addresses:
        addresses = [("all runs; no sweep has saved views there", server)]  # as of `dmsae groundtruth`
    for name, address in addresses:
        print(f"{name}:\n  {address}")
    sys.stdout.flush()
    if browser and _has_browser():
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(addresses[0][1])


def _has_browser() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
