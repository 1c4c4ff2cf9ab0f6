"""Two controllers of one sweep: the second is refused, and one that was killed is recognised."""

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import load_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.files.folder import Folder
from dmsae_ray.results.folders import Folders, folders_of
from dmsae_ray.sweep.sole_controller import CONTROLLER_FILE, SoleController
from tests.small_sweep import write_config

SPAWN = multiprocessing.get_context("spawn")


def folders(tmp_path: Path) -> Folders:
    return Folders(Folder(str(tmp_path / "runs")), tmp_path / "runs", "small-1")


def run_for(where: Folders, seconds: float, entered: Any, host: str | None = None) -> None:
    """Be a controller for some time; on a machine of another name, if one is given."""
    if host is not None:
        socket.gethostname = lambda: host
    try:
        with SoleController(where, beat_seconds=0.2):
            entered.put("entered")
            time.sleep(seconds)
    except ConfigError as error:
        entered.put(str(error))


def started(where: Folders, seconds: float, host: str | None = None) -> Any:
    entered = SPAWN.Queue()
    process = SPAWN.Process(target=run_for, args=(where, seconds, entered, host))
    process.start()
    assert entered.get(timeout=60) == "entered"
    return process


@pytest.mark.parametrize("host", [None, "another-machine"])
def test_a_second_controller_is_refused_and_a_killed_one_is_not_waited_for(tmp_path: Path, host: str | None) -> None:
    where = folders(tmp_path)
    first = started(where, 60, host)
    said = rf"small-1 is run by process {first.pid} on {host or socket.gethostname()} now; wait for its end, or stop it"
    with pytest.raises(ConfigError, match=said) as refused, SoleController(where, beat_seconds=0.2):
        pass
    assert "\n" not in str(refused.value)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    began, told = time.monotonic(), []
    with SoleController(where, told.append, beat_seconds=0.2):
        assert time.monotonic() - began < 3
    # On this machine the process is looked up; of another one only time tells, and a person is told so.
    assert told == (
        [] if host is None else [f"looking whether process {first.pid} on {host} still runs this sweep, 1 s at most"]
    )
    began = time.monotonic()
    with SoleController(where, beat_seconds=30):  # the one before has said that it ended: no waiting
        assert time.monotonic() - began < 3


def test_of_two_at_the_same_moment_at_most_one_runs(tmp_path: Path) -> None:
    where = folders(tmp_path)
    entered = SPAWN.Queue()
    both = [SPAWN.Process(target=run_for, args=(where, 3, entered)) for _ in range(2)]
    for process in both:
        process.start()
    answers = [entered.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert answers.count("entered") == 1, answers
    assert sum("is run by process" in answer for answer in answers) == 1


def test_the_command_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    where = folders_of(load_experiment(config))
    with SoleController(where, beat_seconds=0.2):
        assert main(["sweep", str(config)]) == 2
        error = capsys.readouterr().err
        assert f"is run by process {os.getpid()} on" in error and error.count("\n") == 1
        assert not (where.sweep / "journal.jsonl").exists()
    assert (where.output / "sweeps" / where.name).read(CONTROLLER_FILE) is not None
