"""Which tokens of a shard are kept, by the settings."""

from typing import Any

import pytest
import torch

from dmsae_ray.config.sections import ActivationSettings
from dmsae_ray.errors import DataError
from dmsae_ray.harvest.shard import compute_shard
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.lm.tap import Tap

PAD, EOS, BOS = 0, 1, 2
# Two contexts of three documents: EOS where one ends, and a padded end.
TOKENS = torch.tensor([[BOS, 40, 41, EOS, 42, 43], [BOS, 50, EOS, 51, PAD, PAD]])


@pytest.fixture(scope="module")
def tap() -> Tap:
    return load_tap("tiny", 1, "cpu", "float32", full=False)


def kept(tap: Tap, tokens: torch.Tensor, **settings: Any) -> tuple[list[int], dict[str, int]]:
    """Tokens whose activations stay, ascending, and how many were dropped for which reason."""
    how = ActivationSettings(dtype="float32", max_norm_multiple=None, **settings)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    shard = compute_shard(tap, tokens, mask, how, batch_tokens=64, split="train", shard=0)
    return sorted(tokens.reshape(-1)[shard.tensors["position"].long()].tolist()), shard.dropped


@pytest.mark.parametrize(
    ("settings", "stay", "dropped"),
    [
        ({}, [PAD, PAD, EOS, EOS, 40, 41, 42, 43, 50, 51], {"bos": 2}),
        ({"drop_special": True}, [40, 41, 42, 43, 50, 51], {"bos": 2, "special": 4}),
        ({"drop_special": True, "drop_bos": False}, [BOS, BOS, 40, 41, 42, 43, 50, 51], {"special": 4}),
        ({"drop_bos": False}, [PAD, PAD, EOS, EOS, BOS, BOS, 40, 41, 42, 43, 50, 51], {}),
    ],
    ids=str,
)
def test_special_tokens_are_kept_or_dropped_as_asked(
    tap: Tap, settings: dict[str, bool], stay: list[int], dropped: dict[str, int]
) -> None:
    assert {PAD, EOS, BOS} <= set(tap.special_ids) and tap.bos_id == BOS
    assert kept(tap, TOKENS, **settings) == (stay, {**dropped, "no_target": 0})


def test_a_tokenizer_of_another_model_is_one_line(tap: Tap) -> None:
    with pytest.raises(DataError, match=r"'tiny' has 1024 token embeddings, and its tokenizer gave token 1024"):
        kept(tap, torch.tensor([[BOS, 1024, 40, 41]]))
