"""Model actors that die: always, and the harvest ends with one error; now and then, and it ends with the same bytes."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.config.experiment import Experiment
from dmsae_ray.errors import DataError
from dmsae_ray.harvest import attempts
from dmsae_ray.harvest import harvesting as harvest_module
from dmsae_ray.store.reader import Store
from tests.small_store import contents, prepare

Make = Callable[..., Experiment]


def dying(deaths: dict[str, int], marks: Path) -> type:
    """A model actor that kills itself so many times at each of these shards; it leaves a mark for every time."""

    class Dying(harvest_module.HarvestActor):
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


def test_an_actor_that_always_dies_ends_the_harvest(
    ray_cluster: Any, make_experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setattr(harvest_module, "HarvestActor", dying({"any": 1000}, marks))
    monkeypatch.setattr(attempts, "MAX_ATTEMPTS", 2)
    with pytest.raises(
        DataError, match=r"^model actors died 2 times while they made shard \S+ [^\n]*model_batch_tokens"
    ):
        prepare(make_experiment(resources__model_actors_max=1), str(tmp_path / "stores"))
    assert 2 <= len(list(marks.iterdir())) <= 4  # an actor has two shards in hand
    (reason,) = (tmp_path / "stores").glob("*/failed.json")
    assert "model actors died" in json.loads(reason.read_text())["reason"]


def test_actors_that_die_now_and_then_are_survived(
    store: Store, stores: Path, make_experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    deaths = {"attribution-0": 1, "train-2": 2}
    monkeypatch.setattr(harvest_module, "HarvestActor", dying(deaths, marks))
    prepare(make_experiment(resources__model_actors_max=1), str(tmp_path / "stores"))
    assert len(list(marks.iterdir())) == sum(deaths.values())
    assert contents(tmp_path / "stores" / store.key) == contents(stores / store.key)


def test_a_shard_that_is_made_again_and_again_is_no_dying_one(ray_cluster: Any) -> None:
    """As a stream makes it, once an epoch."""
    count = attempts.start_attempts()
    for _ in range(attempts.MAX_ATTEMPTS + 2):
        attempts.begin(count, "train-000000")
        attempts.made(count, "train-000000")
    for _ in range(attempts.MAX_ATTEMPTS):
        attempts.begin(count, "train-000000")
    with pytest.raises(
        DataError, match=rf"^model actors died {attempts.MAX_ATTEMPTS} times while they made shard train-000000"
    ):
        attempts.begin(count, "train-000000")
