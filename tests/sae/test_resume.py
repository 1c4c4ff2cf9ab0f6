"""Stopping and resuming changes no bit of the weights."""

import io
from typing import Any

import pytest
import torch

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.sae.trainer import SAETrainer

from .worlds import features, make_sae, recipe

OPTIONS = [{}, {"n_core": 7}, {"n_core": 7, "core_sparsity": "sparse"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_resuming_at_any_step_is_bit_identical(options: dict[str, Any]) -> None:
    straight, files, stats = SAETrainer(make_sae(**options), recipe()), [], []
    for step in range(30):
        files.append(io.BytesIO())
        torch.save(straight.state_dict(), files[-1])
        stats.append(straight.step(features(48, 12, step)).floats())
    assert any(s["aux_loss"] > 0 for s in stats)
    for stop, file in enumerate(files):
        file.seek(0)
        resumed = SAETrainer(make_sae(seed=9, **options), recipe())
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert resumed.steps_done == stop
        for step in range(stop, 30):
            assert resumed.step(features(48, 12, step)).floats() == stats[step]
        for name, tensor in straight.sae.state_dict().items():
            assert torch.equal(tensor, resumed.sae.state_dict()[name]), name
        silent = [trainer.state_dict()["silence"]["tokens"] for trainer in (straight, resumed)]
        assert torch.equal(*silent)


def test_a_state_is_of_its_moment() -> None:
    """Steps that are taken after it change nothing in it."""
    trainer = SAETrainer(make_sae(), recipe())
    for step in range(5):
        trainer.step(features(48, 12, step))
    state = trainer.state_dict()
    later = [trainer.step(features(48, 12, step)).floats() for step in range(5, 10)]
    resumed = SAETrainer(make_sae(seed=9), recipe())
    resumed.load_state_dict(state)
    assert [resumed.step(features(48, 12, step)).floats() for step in range(5, 10)] == later


def test_a_state_of_another_shape_is_a_one_line_error() -> None:
    state = SAETrainer(make_sae(m=65, groups=(8, 57)), recipe()).state_dict()
    with pytest.raises(DataError, match="does not fit") as error:
        SAETrainer(make_sae(), recipe()).load_state_dict(state)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError):
        SAETrainer(make_sae(), recipe()).load_state_dict({})
    state = SAETrainer(make_sae(), recipe()).state_dict()
    state["adam"]["exp_avg"]["W_enc"] = torch.zeros(1)
    with pytest.raises(DataError, match="does not fit"):
        SAETrainer(make_sae(), recipe()).load_state_dict(state)


def test_a_batch_of_another_width_is_refused() -> None:
    trainer = SAETrainer(make_sae(), recipe())
    with pytest.raises(ConfigError, match="d_model = 12"):
        trainer.step(torch.zeros(4, 13))
    with pytest.raises(ConfigError, match="at least 1"):
        trainer.step(torch.zeros(0, 12))


def test_stats_become_named_floats() -> None:
    stats = SAETrainer(make_sae(), recipe()).step(features(48, 12, 0))
    assert set(stats.floats()) == {
        "loss", "prefix_mse_0", "prefix_mse_1", "prefix_mse_2", "aux_loss", "l0_core", "l0_non_core",
        "dead", "grad_norm", "lr", "threshold",
    }  # fmt: skip
    assert stats.floats()["l0_non_core"] == 4.0
