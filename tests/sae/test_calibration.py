"""The calibrated threshold against a plain sort of all activations."""

import pytest
import torch

from dmsae_ray.sae.calibration import calibrated_threshold

from .worlds import features, make_sae


@pytest.mark.parametrize("options", [{}, {"n_core": 7}, {"n_core": 7, "core_sparsity": "sparse"}], ids=str)
def test_as_many_latents_fire_as_the_budget_says(options) -> None:
    sae = make_sae(**options)
    x = features(3000, 12, 0)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    theta = calibrated_threshold(sae, x.split(700))
    assert all(torch.equal(tensor, before[name]) for name, tensor in sae.state_dict().items())
    assert theta == calibrated_threshold(sae, [x]), "however the tokens are cut into batches"
    u = torch.relu((x - sae.b_dec) @ sae.W_enc[sae.n_dense :].T + sae.b_enc[sae.n_dense :])
    exact = u.flatten().sort(descending=True).values[sae.topk_budget * len(x)]
    assert theta == pytest.approx(float(exact), rel=2**-11)
    sae.theta.fill_(theta)
    l0 = float((sae.encode(x)[:, sae.n_dense :] > 0).sum(1).double().mean())
    assert l0 == pytest.approx(sae.topk_budget, rel=0.002) and l0 <= sae.topk_budget


def test_few_positive_activations_all_pass_and_none_gives_no_threshold() -> None:
    sae = make_sae()
    x = features(50, 12, 0)
    with torch.no_grad():
        sae.b_enc.fill_(-1e9)
        assert calibrated_threshold(sae, [x]) is None
        sae.b_enc[3] = 1e6
    assert calibrated_threshold(sae, [x]) == 0.0
