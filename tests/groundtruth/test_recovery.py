import math

import pytest
import torch

from dmsae_ray.errors import DataError
from dmsae_ray.groundtruth import Latents, Truth
from dmsae_ray.groundtruth.recovery import matched

FEATURES = torch.eye(5)
IMPORTANCE = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0], dtype=torch.float64)


def toward(*weights: float) -> list[float]:
    norm = math.sqrt(sum(w * w for w in weights))
    return [w / norm for w in (*weights, *[0.0] * (5 - len(weights)))]


def test_a_hand_made_set() -> None:
    """Two rows at feature 0, one between 1 and 2 (cosine 0.8 to 1), one at 4, which does not matter."""
    decoder = torch.tensor([toward(1), toward(1, 0.1), toward(0, 0.8, 0.6), toward(0, 0, 0, 0, 1)])
    encoder = torch.tensor([toward(1), toward(0, 0, 1), toward(0, 0.8, 0.6), toward(0, 0, 0, 0, -1)])
    found = Truth(FEATURES, IMPORTANCE).recovery(Latents(encoder, decoder, 0.25))
    assert found is not None
    assert found.size == 4 and found.frequency == 0.25
    # By decoder at 0.9: features 0 (once, though two rows are near) and 4. By encoder at 0.7: 0, 2 and 1.
    assert found.importance == pytest.approx(8 / 15)
    assert found.importance_encoder == pytest.approx(14 / 15)
    assert found.recall == 1 / 4  # of the features 0, 1, 2, 3
    assert found.precision == 1 / 4  # features 0, 1 and 2 hold 14/15, the fewest with 90%
    assert found.purity == 3 / 4
    assert found.purity_encoder == 3 / 4


def test_the_matching_is_one_to_one_and_the_best_in_all() -> None:
    # Row 0 is nearest to feature 0, but row 1 has no other.
    cosine = torch.tensor([[0.99, 0.95, 0.0], [0.92, 0.1, 0.0], [0.5, 0.5, 0.89]])
    assert matched(cosine, 0.9) == {0, 1}
    assert matched(cosine, 0.85) == {0, 1, 2}


def test_a_latent_is_worth_the_feature_that_it_is_near() -> None:
    decoder = torch.tensor([toward(1, 0.1), toward(0, 0.8, 0.6), toward(0, 0, 1)])
    assert Truth(FEATURES, IMPORTANCE).of_latents(decoder).tolist() == [8.0, 0.0, 2.0]


def test_no_latents_recover_nothing_and_a_world_without_importance_is_refused() -> None:
    empty = torch.empty(0, 5)
    assert Truth(FEATURES, IMPORTANCE).recovery(Latents(empty, empty, math.nan)) is None
    with pytest.raises(DataError, match="no feature of the world matters"):
        Truth(FEATURES, torch.zeros(5, dtype=torch.float64))
