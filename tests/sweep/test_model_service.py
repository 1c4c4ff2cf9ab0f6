"""The language model's actor, when it dies of what it is asked."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.sweep.model_service import RETRIES, ModelServiceLost, await_metrics


def test_a_service_that_dies_now_and_then_answers_and_one_that_always_dies_is_one_error(
    ray_cluster: Any, tmp_path: Path
) -> None:
    class Service:
        """Dies of a question so many times."""

        def loss_recovered(self, deaths: int) -> dict[str, float]:
            if len(os.listdir(tmp_path)) < deaths:
                (tmp_path / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"loss_recovered": 1.0}

    remote = ray_cluster.remote(Service).options(num_cpus=0, max_restarts=-1, max_task_retries=RETRIES)
    actor = remote.remote()
    assert await_metrics(actor.loss_recovered.remote(2)) == {"loss_recovered": 1.0}
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ModelServiceLost, match=rf"^the language model's actor died {RETRIES + 1} times [^\n]*$"):
        await_metrics(actor.loss_recovered.remote(1000))
    assert len(list(tmp_path.iterdir())) == 2 + RETRIES + 1
