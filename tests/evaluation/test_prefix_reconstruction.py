"""Prefixes against the SAE's own reconstructions, written out over all tokens at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.errors import DataError
from dmsae_ray.evaluation import prefix_reconstruction as module
from dmsae_ray.evaluation.metrics import evaluate
from dmsae_ray.evaluation.prefix_reconstruction import measure_prefixes
from tests.evaluation.test_metrics import some_sae, some_x


@pytest.mark.parametrize("core", [0, 3])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_prefixes_are_those_of_the_definitions(core, mean):
    sae, x = some_sae(core), some_x(mean=mean)
    with torch.no_grad():
        sae.b_dec.fill_(mean)
        sae.theta.fill_(0.2)
        z, parts = sae.encode(x), sae.prefix_reconstructions(x).double()
    found, whole = measure_prefixes(sae, x.split(23)), evaluate(sae, x.split(23))
    variance = (x.double() - x.double().mean(0)).square().sum()
    stops = [core + size for size in sae.prefix_sizes]
    assert found.tokens == 200 and found.sizes == tuple(stops) and stops[-1] == sae.n_latents
    assert found.fired.tolist() == (z > 0).sum(0).tolist()
    for j, stop in enumerate(stops):
        assert found.fvu[j] == pytest.approx(float((x.double() - parts[j]).square().sum() / variance), rel=1e-4)
        assert found.l0[j] == pytest.approx(float((z[:, :stop] > 0).sum()) / 200)
    assert len(set(found.fvu)) == len(stops)
    assert found.fvu[-1] == pytest.approx(whole.fvu, rel=1e-5) and found.l0[-1] == pytest.approx(whole.l0)


@settings(deadline=None)
@given(batch=st.integers(1, 200), elements=st.integers(1, 5000))
def test_neither_batches_nor_blocks_matter(batch, elements):
    sae, x = some_sae(), some_x(mean=5.0)
    want = measure_prefixes(sae, [x])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ELEMENTS", elements)
        found = measure_prefixes(sae, x.split(batch))
    assert found.fired.tolist() == want.fired.tolist() and found.l0 == want.l0
    assert found.fvu == pytest.approx(want.fvu, rel=1e-5)


def test_bad_batches_are_named():
    sae, x = some_sae(), some_x()
    x[4, 4] = torch.inf
    with pytest.raises(DataError, match="batch 0 holds a value that is not finite"):
        measure_prefixes(sae, [x])
    with pytest.raises(DataError, match="no tokens"):
        measure_prefixes(sae, [x[:0]])
