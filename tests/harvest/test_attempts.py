"""Model actors that die: always, and the harvest ends with one error; now and then, and it ends with the same bytes."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dmsae_ray.config.experiment import Experiment
from dmsae_ray.errors import DataError
from dmsae_ray.harvest import attempts, harvesting
from dmsae_ray.harvest.actors import HarvestActor
from dmsae_ray.store.reader import Store
from tests.small_store import contents, prepare, unfinished

Make = Callable[..., Experiment]


def dying(deaths: dict[str, int], marks: Path) -> type:
    """A model actor that kills itself so many times at each of these shards; it leaves a mark for every time."""

    class Dying(HarvestActor):
        def compute(self, split: str, shard: int) -> Any:
            threading.current_thread().name = f"{split}-{shard}"  # one of two threads
            return super().compute(split, shard)

        def _model(self, gradients: bool) -> Any:
            at = threading.current_thread().name
            if len(list(marks.glob(f"{at}.*"))) < deaths.get(at, deaths.get("any", 0)):
                (marks / f"{at}.{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._model(gradients)

    return Dying


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_an_actor_that_always_dies_ends_the_harvest(
    store: Store, make_experiment: Make, tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unfinished(store, tmp_path, "train-000003", "train-000004", "train-000005")
    monkeypatch.setattr(harvesting, "HarvestActor", dying({"any": 1000}, marks))
    monkeypatch.setattr(attempts, "MAX_ATTEMPTS", 2)
    with pytest.raises(
        DataError, match=r"^model actors died 2 times while they made shard \S+ [^\n]*model_batch_tokens[^\n]*$"
    ):
        prepare(make_experiment(), str(tmp_path))
    assert 2 <= len(list(marks.iterdir())) <= 4  # an actor has two shards in hand
    assert "model actors died" in json.loads((folder / "failed.json").read_text())["reason"]


def test_actors_that_die_now_and_then_are_survived(
    store: Store, stores: Path, make_experiment: Make, tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGKILL: at two shards, once and twice, and once from outside, in the middle of whatever they do then."""
    folder = unfinished(store, tmp_path)
    deaths = {"attribution-0": 1, "train-1": 2}
    monkeypatch.setattr(harvesting, "HarvestActor", dying(deaths, marks))
    killed: list[int] = []

    def kill() -> None:
        while len(list(folder.glob("activations/*.json"))) < 5:
            time.sleep(0.002)
        for pid in _model_actors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    prepare(make_experiment(), str(tmp_path))
    killer.join(timeout=30)
    assert killed
    assert len(list(marks.iterdir())) == sum(deaths.values())
    assert contents(folder) == contents(stores / store.key)


def _model_actors() -> list[int]:
    """Processes of this test's own cluster that host the model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "Dying" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def test_a_shard_that_is_made_again_and_again_is_no_dying_one(ray_cluster: Any) -> None:
    """As a stream makes it, once an epoch."""
    count = attempts.start_attempts()
    for _ in range(attempts.MAX_ATTEMPTS + 2):
        attempts.count_attempt(count, "train-000000")
        attempts.forget_attempts(count, "train-000000")
    for _ in range(attempts.MAX_ATTEMPTS):
        attempts.count_attempt(count, "train-000000")
    with pytest.raises(
        DataError, match=rf"^model actors died {attempts.MAX_ATTEMPTS} times while they made shard train-000000"
    ):
        attempts.count_attempt(count, "train-000000")
