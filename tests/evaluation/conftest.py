"""The embedded model and some contexts of it, for measures that run a language model."""

import pytest
import torch
from torch import Tensor

from dmsae_ray.lm import Tap, load_tap

CONTEXTS, T = 5, 24


@pytest.fixture(scope="session")
def tap() -> Tap:
    return load_tap("tiny", 1, "cpu", "float32")


@pytest.fixture(scope="session")
def tokens(tap: Tap) -> Tensor:
    return torch.randint(3, tap.vocab_size, (CONTEXTS, T), generator=torch.Generator().manual_seed(0))
