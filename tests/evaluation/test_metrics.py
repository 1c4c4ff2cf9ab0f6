import math

import numpy as np
import pytest
import torch

from dmsae_ray.errors import DataError
from dmsae_ray.evaluation.metrics import evaluate
from dmsae_ray.sae.dictionary import MatryoshkaSAE

D, M = 8, 32


def some_sae(core=3):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(core, D, generator=generator) if core else None
    sae = MatryoshkaSAE(D, M, [8, 8, 16], 4, core=rows)
    with torch.no_grad():
        sae.b_enc.add_(0.5 * torch.randn(M, generator=generator) - 0.3)
        sae.b_enc[-3:] = -50
    return sae


def some_x(n=200, mean=0.0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(1)) + mean


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_metrics_are_those_of_the_definitions(mean):
    sae, x = some_sae(), some_x(mean=mean)
    with torch.no_grad():
        sae.b_dec.fill_(mean)
        z, xhat = sae.encode(x), sae(x)
    wide, error = x.double(), (x.double() - xhat.double()).square()
    found = evaluate(sae, x.split(23))
    spread = (wide - wide.mean(0)).square().sum()
    assert found.fvu == pytest.approx(float(error.sum() / spread), rel=1e-4)
    assert found.explained_variance == pytest.approx(1 - found.fvu)
    assert found.mse == pytest.approx(float(error.mean()), rel=1e-4)
    on = (z > 0).double()
    assert found.l0_core == pytest.approx(float(on[:, :3].sum(1).mean()))
    assert found.l0_non_core == pytest.approx(float(on[:, 3:].sum(1).mean()))
    assert found.l0 == pytest.approx(float(on.sum(1).mean()))
    assert found.dead_fraction == pytest.approx(float((on.sum(0) == 0).double().mean())) and found.dead_fraction > 0
    np.testing.assert_allclose(found.core_frequency.numpy(), on[:, :3].mean(0).numpy(), atol=1e-12)
    assert found.tokens == 200


def test_batching_does_not_matter():
    sae, x = some_sae(), some_x()
    a, b = evaluate(sae, [x]), evaluate(sae, [x[:0], *x.split(7)])
    assert a.floats().keys() == b.floats().keys()
    for name, value in a.floats().items():
        assert b.floats()[name] == pytest.approx(value, rel=1e-5), name


def test_a_common_mean_is_not_variance_explained():
    sae = some_sae(0)
    with torch.no_grad():
        sae.b_enc.fill_(-1e9)
        x = some_x(mean=1000.0)
        sae.b_dec.copy_(x.mean(0))
    assert evaluate(sae, x.split(50)).fvu == pytest.approx(1.0, rel=1e-5)


def test_without_a_core():
    found = evaluate(some_sae(0), [some_x()])
    assert found.l0_core == 0 and math.isnan(found.core_dead_fraction)
    assert "core_dead_fraction" not in found.floats()


def test_bad_batches_are_named():
    sae, x = some_sae(), some_x()
    bad = x.clone()
    bad[4, 4] = torch.nan
    with pytest.raises(DataError, match="batch 1 holds a value that is not finite"):
        evaluate(sae, [x, bad])
    with pytest.raises(DataError, match="batch 0 has shape"):
        evaluate(sae, [x[:, :5]])
    with pytest.raises(DataError, match="no tokens"):
        evaluate(sae, [])
