from pathlib import Path

import pytest
import torch
from torch import Tensor

from .models import CONFIGS, VOCAB, save_random_model


@pytest.fixture(scope="session")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_random_model(name, root / name) for name in CONFIGS}


@pytest.fixture
def tokens() -> Tensor:
    """Three contexts that begin with BOS: int64 [3, 24]."""
    drawn = torch.randint(4, VOCAB, (3, 24), generator=torch.Generator().manual_seed(7))
    drawn[:, 0] = 2
    return drawn
