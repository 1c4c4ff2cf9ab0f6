"""The store of finished cycles, where something fails in it."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from dmsae_ray.distill.cycle_runner import CycleRunner
from dmsae_ray.distill.cycle_store import DirectoryCycleStore
from dmsae_ray.distill.cycles import run_cycles
from dmsae_ray.distill.trained_cycle import TrainedCycle
from dmsae_ray.errors import DataError

from .synthetic import Synthetic, small_settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainedCycle:
    """A cycle that was not evaluated."""
    store = DirectoryCycleStore(tmp_path_factory.mktemp("finished"))
    runner = CycleRunner(small_settings(), Synthetic(), store=store)
    cycle = store.load(run_cycles(runner, cycles=1, coverage=0.9, seed=3).reports[0].key)
    assert cycle is not None and not cycle.evaluated
    return cycle


def test_an_earlier_result_stays_if_its_successor_cannot_take_its_place(
    finished: TrainedCycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails between the two renames that replace a result."""
    store, key = DirectoryCycleStore(tmp_path), "ab" * 32
    store.save(key, finished)
    rename, seen = os.rename, []

    def failing(source: Path, target: Path) -> None:
        seen.append(target)
        if len(seen) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        store.save(key, dataclasses.replace(finished, evaluated=True))
    assert len(seen) == 3
    kept = store.load(key)
    assert kept is not None and not kept.evaluated
    assert torch.equal(kept.scores, finished.scores)
    assert [path.name for path in tmp_path.iterdir()] == [key]


@pytest.mark.parametrize("name", ["outcome.json", "tensors.safetensors"])
def test_a_damaged_cycle_names_the_missing_file(finished: TrainedCycle, tmp_path: Path, name: str) -> None:
    store, key = DirectoryCycleStore(tmp_path), "cd" * 32
    store.save(key, finished)
    (store.folder(key) / name).unlink()
    with pytest.raises(DataError, match=f"is damaged .*{name}.*; delete it") as error:
        store.load(key)
    assert "\n" not in str(error.value)
