"""The dictionary by itself: k', thresholds, prefixes, pools, folding, and settings that cannot work."""

from typing import Any

import pytest
import torch

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae.dictionary import MatryoshkaSAE

from .worlds import features, make_sae


def test_non_core_budget_scales_with_the_non_core_latents() -> None:
    assert make_sae(n_core=16, k=8).non_core_k == 6  # 8 * 48 / 64
    assert make_sae(n_core=16, k=1).non_core_k == 1
    assert make_sae(k=8).non_core_k == 8


@pytest.mark.parametrize("sizes", [(8, 16, 40), (8, 16, 30)])
def test_the_last_group_gives_up_the_core(sizes: tuple[int, ...]) -> None:
    sae = make_sae(n_core=10, groups=sizes)
    assert sae.group_sizes == (8, 16, 30)
    assert sae.prefix_sizes == (8, 24, 54)
    assert sae.pool_size() == 18 and sae.pool_size(2) == 34 and sae.pool_size(3) == 64


@pytest.mark.parametrize("options", [{}, {"n_core": 6}, {"n_core": 6, "core_sparsity": "sparse"}], ids=str)
def test_inference(options: dict[str, Any]) -> None:
    sae = make_sae(**options)
    sae.theta.fill_(0.2)
    sae.b_enc.data.uniform_(-0.1, 0.1)
    x = features(40, 12, 0)
    u = torch.relu((x - sae.b_dec) @ sae.W_enc.T + sae.b_enc)
    theta = torch.full((64,), 0.2)
    theta[: 6 if options == {"n_core": 6} else 0] = 0.0
    z = sae.encode(x)
    assert torch.equal(sae.threshold, theta)
    assert torch.equal(z, torch.where(u > theta, u, 0))
    assert torch.allclose(sae(x), z @ sae.W_dec + sae.b_dec, atol=1e-6)
    prefixes = sae.prefix_reconstructions(x)
    assert prefixes.shape == (3, 40, 12)
    for j in range(3):
        n = sae.pool_size(j + 1)
        assert torch.allclose(prefixes[j], z[:, :n] @ sae.W_dec[:n] + sae.b_dec, atol=1e-5)
        assert torch.allclose(sae.encode_pool(x, j + 1), z[:, :n], atol=1e-6)


def test_before_the_threshold_is_estimated_everything_positive_passes() -> None:
    sae, x = make_sae(), features(40, 12, 0)
    assert torch.equal(sae.encode(x), torch.relu((x - sae.b_dec) @ sae.W_enc.T + sae.b_enc))


@pytest.mark.parametrize("theta", [-1.0, 0.2])
def test_folding_moves_the_norm_factor_into_biases_and_threshold(theta: float) -> None:
    sae, x = make_sae(n_core=6), features(40, 12, 0)
    sae.theta.fill_(theta)
    sae.b_enc.data.uniform_(-0.1, 0.1)
    sae.norm_factor = 7.5
    raw = sae.folded()
    assert raw.norm_factor == 1.0 and sae.norm_factor == 7.5
    assert torch.equal(raw.W_enc, sae.W_enc)
    assert torch.allclose(raw.encode(x * 7.5), sae.encode(x) * 7.5, atol=1e-5)
    assert torch.allclose(raw(x * 7.5), sae(x) * 7.5, atol=1e-5)


def test_initial_weights() -> None:
    sae = make_sae(n_core=6)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-6)
    assert torch.equal(sae.W_enc[6:], sae.W_dec[6:])
    tied = make_sae(n_core=6, core_decoder_init="tied")
    assert torch.allclose(tied.W_dec[:6], sae.W_enc[:6] / sae.W_enc[:6].norm(dim=1, keepdim=True), atol=1e-6)
    assert not torch.allclose(sae.W_dec[:6], tied.W_dec[:6])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"groups": (8, 16, 41)}, "group_sizes"),
        ({"groups": (0, 64)}, "group_sizes"),
        ({"groups": ()}, "group_sizes"),
        ({"k": 0}, "k: 0"),
        ({"k": 65}, "at most 64"),
        ({"k": 2.5}, "k: 2.5"),
        ({"groups": (8.0, 56.0)}, "group_sizes"),
        ({"d": 0}, "d_model"),
        ({"n_core": 62}, "core"),
        ({"core_sparsity": "none"}, "core_sparsity"),
        ({"core_decoder_init": "none"}, "core_decoder_init"),
    ],
    ids=str,
)
def test_what_cannot_work_is_one_line_naming_it(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        make_sae(**change)
    assert "\n" not in str(error.value)


def test_a_core_of_another_width_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"core: shape \[3, 11\]"):
        MatryoshkaSAE(12, 64, [64], 4, core=torch.zeros(3, 11))
