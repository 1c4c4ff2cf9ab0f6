"""Scores of a stored cycle by another scoring: both kinds of cycle store keep the same file."""

from pathlib import Path

import pytest
import torch

from dmsae_ray.distill.cycle_store import DirectoryCycleStore
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder
from dmsae_ray.sweep.shared_cycles import BucketCycleStore

SCORING = {"quantile": 0.9, "score": "quantile", "pool_groups": 2}


def test_what_one_store_keeps_the_other_finds(tmp_path: Path) -> None:
    stores = (DirectoryCycleStore(tmp_path), BucketCycleStore(Folder(str(tmp_path))))
    for n, writer in enumerate(stores):
        key, scores = f"{n}" * 64, torch.rand(5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        (tmp_path / key).mkdir()
        writer.save_scores(key, SCORING, scores)
        for reader in stores:
            found = reader.load_scores(key, dict(reversed(SCORING.items())))
            assert found is not None and torch.equal(found, scores) and found.dtype == torch.float64
            assert reader.load_scores(key, {**SCORING, "quantile": 0.99}) is None
        (file,) = (tmp_path / key).iterdir()
        file.write_bytes(file.read_bytes()[:-3])
        for reader in stores:
            with pytest.raises(DataError, match=r"^scores: .*is damaged .*delete it to score again$"):
                reader.load_scores(key, SCORING)
