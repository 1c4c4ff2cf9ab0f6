import pytest
import torch

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae.chosen_latents import latent_rows, together

from .worlds import features, make_sae


@pytest.mark.parametrize("sparsity", ["dense", "sparse"])
def test_chosen_latents_fire_as_they_do_in_the_whole_sae(sparsity):
    sae = make_sae(n_core=5, core_sparsity=sparsity)
    sae.theta.fill_(0.8)
    sae.b_dec.data.normal_(generator=torch.Generator().manual_seed(3))
    sae.b_enc.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(4))
    x, chosen = features(300, 12, seed=1), [4, 60, 0, 17]
    whole = sae.encode(x)
    found = latent_rows(sae, chosen).encode(x)
    torch.testing.assert_close(found, whole[:, chosen])
    weak = (found > 0) & (found < 0.8)
    assert weak[:, 0].any() == (sparsity == "dense") and not weak[:, [1, 3]].any(), "the threshold decides"
    torch.testing.assert_close(latent_rows(sae, chosen).subset([2, 1]).encode(x), whole[:, [0, 60]])


def test_latents_of_several_saes_are_encoded_together_as_alone():
    """Around a mean that is large beside what the latents read, as in a language model."""
    mean = 300 * torch.randn(12, generator=torch.Generator().manual_seed(5))
    parts, x = [], features(200, 12, seed=1) + mean
    for seed in range(3):
        sae = make_sae(seed=seed)
        sae.b_dec.data = mean + 0.1 * torch.randn(12, generator=torch.Generator().manual_seed(seed))
        parts.append(latent_rows(sae, range(seed, 20)))
    alone = torch.cat([part.encode(x) for part in parts], dim=1)
    both = together(parts)
    assert both.latents == (*range(20), *range(1, 20), *range(2, 20))
    torch.testing.assert_close(both.encode(x), alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together(parts[:1]).encode(x), parts[0].encode(x), rtol=0, atol=0)


def test_a_latent_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"latent 64: the SAE has the latents 0\.\.63"):
        latent_rows(make_sae(), [0, 64])
