import torch

from dmsae_ray.distill import cut
from dmsae_ray.evaluation import ablation
from dmsae_ray.groundtruth import REGIMES, WorldSource, importance
from dmsae_ray.sae import MatryoshkaSAE

from .own import D, F, Orthogonal


def test_batches_are_functions_of_the_step() -> None:
    world = Orthogonal(1)
    plain, keeping = WorldSource(world, 8, 64, 5), WorldSource(world, 8, 64, 5, keep=True)
    whole = list(plain.batches(0, 6))
    assert all(x.shape == (8, D) for x in whole)
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], keeping.batches(3, 6), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole, keeping.batches(0, 6), strict=True))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[0], next(WorldSource(world, 8, 64, 6).batches(0, 1)))
    assert plain.fingerprint == keeping.fingerprint != WorldSource(world, 8, 64, 6).fingerprint


def test_the_norm_factor_and_the_gradients_are_those_of_the_world() -> None:
    world = Orthogonal(2)
    source = WorldSource(world, 8, 2000, 0)
    x, g = next(iter(source.attribution().parts()))
    assert abs(source.norm_factor - float(x.square().sum(dim=1).mean().sqrt())) < 0.05
    # d/dx of the loss of a label y: W (p - e_y), for logits x W, by hand.
    weights = world.features[:3].T @ world.out
    p = torch.softmax(world.logits(x, 0), dim=1)
    labels = source._labels
    wanted = (p - torch.nn.functional.one_hot(labels, 5)) @ weights.T
    torch.testing.assert_close(g, wanted, rtol=1e-4, atol=1e-5)
    # The labels are drawn from the head's own softmax: as often as it says.
    rate = torch.nn.functional.one_hot(labels, 5).double().mean(dim=0)
    assert float((rate - p.double().mean(dim=0)).abs().max()) < 0.04


def test_each_domain_has_its_own_part_of_the_attribution_set() -> None:
    world = REGIMES["domains"].make(1)
    source = WorldSource(world, 8, 50, 0)
    parts = cut(source.attribution(), 4)
    for domain, part in enumerate(parts):
        ((x, g),) = part.parts()
        leaf = x.clone().requires_grad_()
        labels = source._labels[50 * domain : 50 * (domain + 1)]
        torch.nn.functional.cross_entropy(world.logits(leaf, domain), labels, reduction="sum").backward()
        torch.testing.assert_close(g, leaf.grad)


def test_exact_ablation_of_a_perfect_dictionary_is_the_importance() -> None:
    """With orthogonal features, an SAE of exactly these, and no noise, both are the same number."""
    world = Orthogonal(3)
    sae = MatryoshkaSAE(D, F, [4, 8], 2)
    sae.theta.fill_(1e-3)
    with torch.no_grad():
        sae.W_enc.copy_(world.features)
        sae.W_dec.copy_(world.features)
    source = WorldSource(world, 8, 3000, 0)
    found = ablation(source.model(0), sae, keep_error=True)
    spliced = ablation(source.model(0), sae)
    sampled = ablation(source.model(0, sampled=True), sae, keep_error=True)
    truth = importance(world, 20_000, 1)[0]
    assert torch.allclose(found, truth, rtol=0.15, atol=1e-4)
    # The reconstruction is x itself, so both ablations agree; sampled labels add noise only.
    assert torch.allclose(found, spliced, atol=1e-5)
    assert torch.allclose(found, sampled, rtol=0.3, atol=0.02) and not torch.allclose(found, sampled, rtol=1e-3)


def test_ablation_with_the_error_kept_takes_latents_out_of_x() -> None:
    """Written out: the mean loss at x - z_i W_dec[i], less that at x."""
    world = Orthogonal(4)
    sae = MatryoshkaSAE(D, 20, [8, 12], 3, seed=1)
    source = WorldSource(world, 8, 300, 0)
    model = source.model(0, sampled=True)
    found = ablation(model, sae, keep_error=True, batch=17)
    z = sae.encode(model.x)
    for i in range(20):
        without = model.x - z[:, i : i + 1] * sae.W_dec[i]
        assert abs(float(found[i]) - (model.loss(without) - model.loss(model.x))) < 1e-6
