"""Places of a killed actor are freed, others are left alone; on a real Ray cluster."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from dmsae_ray.sweep.orphaned_places import OrphanedPlaces
from tests.small_sweep import environment, trained_cycles, write_config


def test_places_of_a_killed_actor_are_freed(ray_cluster: Any) -> None:
    class Holder:
        def __init__(self, lifetime: str | None = None) -> None:
            self._group = placement_group([{"CPU": 0.1}], lifetime=lifetime)

        def group(self) -> tuple[str, int]:
            ray_cluster.get(self._group.ready())
            return self._group.id.hex(), os.getpid()

    def states() -> dict[str, str]:
        return {name: group["state"] for name, group in placement_group_table().items()}

    own = placement_group([{"CPU": 0.1}])
    lives, dies, kept = (ray_cluster.remote(Holder).options(num_cpus=0).remote(how) for how in (None, None, "detached"))
    (living, _), (orphan, pid), (detached, other) = ray_cluster.get([one.group.remote() for one in (lives, dies, kept)])
    try:
        for killed in (pid, other):
            os.kill(killed, signal.SIGKILL)
        time.sleep(2.0)
        assert states()[orphan] == "CREATED", "Ray frees it now: OrphanedPlaces is not needed any more"
        with OrphanedPlaces(poll_seconds=0.1):
            until = time.monotonic() + 120
            while states()[orphan] != "REMOVED" and time.monotonic() < until:
                time.sleep(0.1)
        found = states()
        assert found[orphan] == "REMOVED"
        assert (found[own.id.hex()], found[living], found[detached]) == ("CREATED",) * 3
    finally:
        ray_cluster.kill(lives)
        for name in (own.id.hex(), living, detached):
            remove_placement_group(_group(name))


def test_the_last_look_is_when_the_context_is_left(ray_cluster: Any) -> None:
    """The session may live on, as in a notebook; what died shortly before must not hold its places."""

    class Holder:
        def __init__(self) -> None:
            self.group = placement_group([{"CPU": 0.1}])

        def ready(self) -> tuple[str, int]:
            ray_cluster.get(self.group.ready())
            return self.group.id.hex(), os.getpid()

    orphan, pid = ray_cluster.get(ray_cluster.remote(Holder).options(num_cpus=0).remote().ready.remote())
    with OrphanedPlaces(poll_seconds=600):
        os.kill(pid, signal.SIGKILL)
        time.sleep(2.0)
        assert placement_group_table()[orphan]["state"] == "CREATED"
    until = time.monotonic() + 120
    while placement_group_table()[orphan]["state"] != "REMOVED" and time.monotonic() < until:
        time.sleep(0.1)
    assert placement_group_table()[orphan]["state"] == "REMOVED"


def _group(name: str) -> Any:
    return PlacementGroup(ray.PlacementGroupID.from_hex(name))


@pytest.mark.sweep
def test_a_sweep_on_one_machine_goes_on_when_its_drivers_are_killed(finished_sweep: Path, tmp_path: Path) -> None:
    """Dead drivers, which are Train's controllers, hold all places for a while; the SAEs are those of a quiet sweep."""
    shutil.copytree(finished_sweep / "runs" / "stores", tmp_path / "runs" / "stores")
    distill = {"cycles": 1, "controls": []}
    config = write_config(tmp_path, name="killed", distill=distill, sweep={"coverage": [0.3], "seeds": [0, 1]})
    command = [sys.executable, "-m", "dmsae_ray.cli", "sweep", str(config)]
    killed: set[int] = set()
    others: set[int] = set()
    with (tmp_path / "said.txt").open("wb") as said:
        sweep = subprocess.Popen(
            command, cwd=tmp_path, stdout=said, stderr=said, env=environment(), start_new_session=True
        )
        try:
            until = time.monotonic() + 300
            while sweep.poll() is None and time.monotonic() < until:
                if len(killed) < 2 and " cycle 0 " in (tmp_path / "said.txt").read_text():
                    found = _below(sweep.pid, "ImplicitFunc") - killed
                    for pid in found:
                        os.kill(pid, signal.SIGKILL)
                    killed |= found
                for actor in ("TrainController", "PlacementGroupCleaner", "DatasetManager", "_QueueActor"):
                    others |= _below(sweep.pid, actor)
                time.sleep(0.2)
        finally:
            if sweep.poll() is None:
                os.killpg(sweep.pid, signal.SIGKILL)
    output = (tmp_path / "said.txt").read_text()
    assert sweep.wait() == 0 and len(killed) == 2, output
    assert not others, "Ray Train or Tune starts processes of its own for a trial again: see TrialTrainer"
    assert output.count("it goes on from its last checkpoint") == 2
    plain, disturbed = trained_cycles(finished_sweep), trained_cycles(tmp_path)
    shared = plain.keys() & disturbed.keys()
    assert len(shared) == 2  # cycles 0 and 1 of seed 0
    assert {key: plain[key] for key in shared} == {key: disturbed[key] for key in shared}


def _below(pid: int, actor: str) -> set[int]:
    """The processes of an actor's class that a process started."""
    found = set()
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            if " ".join(child.cmdline()).startswith(f"ray::{actor}"):
                found.add(child.pid)
    return found
