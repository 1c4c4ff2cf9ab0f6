"""The language model's actor, when it dies of what it is asked."""

import os
import signal
from typing import Any

import pytest

from dmsae_ray.errors import DataError
from dmsae_ray.sweep.model_service import RETRIES, answer


class Service:
    """Dies of a question so many times."""

    def __init__(self, marks: str) -> None:
        self._marks = marks

    def loss_recovered(self, deaths: int) -> dict[str, float]:
        if len(os.listdir(self._marks)) < deaths:
            open(os.path.join(self._marks, str(os.getpid())), "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"loss_recovered": 1.0}


def test_a_service_that_dies_now_and_then_answers_and_one_that_always_dies_is_one_error(
    ray_cluster: Any, tmp_path: Any
) -> None:
    remote = ray_cluster.remote(Service).options(num_cpus=0, max_restarts=-1, max_task_retries=RETRIES)
    actor = remote.remote(str(tmp_path))
    assert answer(actor.loss_recovered.remote(2)) == {"loss_recovered": 1.0}
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(DataError, match=rf"^the language model's actor died {RETRIES + 1} times [^\n]*$"):
        answer(actor.loss_recovered.remote(1000))
    assert len(list(tmp_path.iterdir())) == 2 + RETRIES + 1
