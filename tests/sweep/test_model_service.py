"""The language model's actor: it dies of what it is asked, it is let go when nobody asks, it waits for room."""

import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dmsae_ray.sweep.model_service import RETRIES, LanguageModelService, ModelServiceLost, await_metrics


class Mortal:
    """A model that dies of a question so many times; each process leaves a file."""

    def __init__(self, experiment: dict[str, Any], stores: str, key: str) -> None:
        self._folder = Path(stores)
        (self._folder / f"begun-{os.getpid()}").touch()

    def ready(self) -> None:
        """See `LanguageModel.ready`."""

    def loss_recovered(self, deaths: int) -> dict[str, float]:
        """Die, or answer with this process's number."""
        if len(list(self._folder.glob("died-*"))) < deaths:
            (self._folder / f"died-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"process": os.getpid()}


class MortalService(LanguageModelService):
    """The service, with that model."""

    MODEL: ClassVar[type] = Mortal


def service(ray: Any, folder: Path, *, idle: float = 60.0, gpus: float = 0.0) -> Any:
    return ray.remote(MortalService).options(num_cpus=0).remote({}, (0, gpus), str(folder), "key", idle)


def ask(ray: Any, actor: Any, deaths: int) -> Any:
    return actor.loss_recovered.remote([ray.put(deaths)])


def test_a_model_that_dies_now_and_then_answers_and_one_that_always_dies_is_one_error(
    ray_cluster: Any, tmp_path: Path
) -> None:
    actor = service(ray_cluster, tmp_path)
    assert await_metrics(ask(ray_cluster, actor, 2))["process"] > 0
    assert len(list(tmp_path.glob("died-*"))) == 2
    with pytest.raises(ModelServiceLost, match=rf"^the language model's actor died {RETRIES + 1} times [^\n]*$"):
        await_metrics(ask(ray_cluster, actor, 1000))
    assert len(list(tmp_path.glob("died-*"))) == 2 + RETRIES + 1


def test_a_model_is_loaded_when_asked_kept_while_asked_and_let_go_when_idle(ray_cluster: Any, tmp_path: Path) -> None:
    actor = service(ray_cluster, tmp_path, idle=2.0)
    assert not ray_cluster.get(actor.waits.remote()) and list(tmp_path.iterdir()) == []
    begun = time.monotonic()
    processes = set()
    while time.monotonic() - begun < 5.0:
        processes.add(await_metrics(ask(ray_cluster, actor, 0))["process"])
        time.sleep(0.5)
    (first,) = processes
    assert os.path.exists(f"/proc/{first:.0f}")
    until = time.monotonic() + 120
    while os.path.exists(f"/proc/{first:.0f}") and time.monotonic() < until:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{first:.0f}")
    assert await_metrics(ask(ray_cluster, actor, 0))["process"] != first


def test_a_model_without_room_waits_and_the_service_says_so(ray_cluster: Any, tmp_path: Path) -> None:
    actor = service(ray_cluster, tmp_path, gpus=7)
    answer = ask(ray_cluster, actor, 0)
    until = time.monotonic() + 120
    while not ray_cluster.get(actor.waits.remote()) and time.monotonic() < until:
        time.sleep(0.1)
    assert ray_cluster.get(actor.waits.remote())
    assert ray_cluster.wait([answer], timeout=1.0)[0] == []
    ray_cluster.kill(actor)
