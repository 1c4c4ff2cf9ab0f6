import math

import pytest
import torch

from dmsae_ray.errors import ConfigError
from dmsae_ray.groundtruth import REGIMES, PlantedWorld, WorldSettings, chosen_regimes, importance
from dmsae_ray.groundtruth.world import check_world

from .own import Orthogonal


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return PlantedWorld(WorldSettings(seed=3))


def test_features_are_unit_and_fire_as_often_as_they_should(world: PlantedWorld) -> None:
    tokens = 40_000
    x, a = world.draw(tokens, 1)
    assert torch.allclose(world.features.norm(dim=1), torch.ones(256), atol=1e-5)
    assert float(world.frequency.sum()) == pytest.approx(6.0)
    assert (world.frequency.diff() <= 0).all()
    rate = (a > 0).double().mean(dim=0)
    error = (world.frequency * (1 - world.frequency) / tokens).sqrt()
    assert float(((rate - world.frequency).abs() / error).max()) < 5
    rest = x - a @ world.features
    assert float(rest.std()) == pytest.approx(0.05, rel=0.02)
    assert float(a[a > 0].min()) >= 0.2 * math.exp(-4 * 0.25)


def test_children_fire_only_beside_their_parent_and_groups_fire_together(world: PlantedWorld) -> None:
    _, a = world.draw(40_000, 2)
    fires = (a > 0).double()
    children = (world._parent >= 0).nonzero().flatten()
    assert len(children) == 96 and int(children.min()) >= 16
    assert bool((fires[:, children] <= fires[:, world._parent[children]]).all())
    free = [i for i in range(16, 256) if i not in set(children.tolist())]
    centred = fires - fires.mean(dim=0)
    correlation = (centred.T @ centred) / len(fires) / (fires.std(dim=0)[:, None] * fires.std(dim=0))
    pairs = [(i, j) for i in free for j in free if i < j]
    inside = [float(correlation[i, j]) for i, j in pairs if world._group[i] == world._group[j]]
    outside = [float(correlation[i, j]) for i, j in pairs if world._group[i] != world._group[j]]
    assert sum(inside) / len(inside) > 0.03 > abs(sum(outside) / len(outside)) * 10


def test_a_world_is_a_function_of_its_seed(world: PlantedWorld) -> None:
    again, other = PlantedWorld(WorldSettings(seed=3)), PlantedWorld(WorldSettings(seed=4))
    x = world.draw(100, 7)[0]
    assert torch.equal(x, again.draw(100, 7)[0]) and torch.equal(world.logits(x, 0), again.logits(x, 0))
    assert not torch.equal(x, world.draw(100, 8)[0]) and not torch.equal(x, other.draw(100, 7)[0])
    assert world.fingerprint == again.fingerprint != other.fingerprint
    torch.manual_seed(0)
    before = torch.get_rng_state()
    world.draw(10, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_head_reads_single_features(world: PlantedWorld) -> None:
    """A reading has gain 1, and no step to either side that keeps the gain lets less of the rest through."""
    x, _ = world.draw(65_536, 11)
    wanted, reading = world.features[world.causal], world._readings
    assert torch.allclose((reading * wanted).sum(dim=1), torch.ones(24), atol=1e-4)
    power = (x @ reading.T).square().mean(dim=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        side = torch.randn(reading.shape, generator=generator)
        side -= (side * wanted).sum(dim=1, keepdim=True) * wanted
        step = 0.2 * side / side.norm(dim=1, keepdim=True)
        assert bool(((x @ (reading + step).T).square().mean(dim=0) > power).all())
    along = (x @ wanted.T).square().mean(dim=0)
    assert float((power / along).mean()) < 0.9


def test_importance_is_the_divergence_without_the_feature() -> None:
    """Token by token and feature by feature, with all tokens of the same draw."""
    world = Orthogonal(5)
    x, a = world.draw(50, 9)
    wanted = torch.zeros(12, dtype=torch.float64)
    for t in range(50):
        p = torch.softmax(world.logits(x[t : t + 1], 0).double(), dim=1)
        for i in range(12):
            q = torch.softmax(world.logits(x[t : t + 1] - a[t, i] * world.features[i], 0).double(), dim=1)
            wanted[i] += float((p * (p / q).log()).sum()) / 50
    found = importance(world, 50, 9, pairs=7)
    assert found.shape == (1, 12)
    assert found[0].tolist() == pytest.approx(wanted.tolist(), abs=1e-6)
    assert float(found[0, 3:].max()) < 1e-9 < float(found[0, :3].min())


@pytest.mark.parametrize("name", REGIMES)
def test_regimes_differ_in_what_matters(name: str) -> None:
    world = REGIMES[name].make(0)
    assert isinstance(world, PlantedWorld)
    check_world(world)
    low, high = world.settings.causal_ranks
    found = importance(world, 4000, 1)
    assert bool(((world.causal >= low) & (world.causal < high)).all())
    assert float(found[:, world.causal].sum() / found.sum()) > 0.7
    if name == "domains":
        reads = world._reads
        assert len(reads) == 4 and bool((reads.sum(dim=1) == 24).all())
        assert int(reads.prod(dim=0).sum()) >= 18 and not torch.equal(reads[0], reads[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 0}, "world.d_model: 0 must be at least 1"),
        ({"mean_active": 200}, "world.mean_active: 200 is not in (0, 128]"),
        ({"correlation": 1.0}, "world.correlation: 1.0 is not in [0, 1)"),
        ({"causal_ranks": (0, 10)}, "world.causal_ranks: [0, 10] must lie in 0..256 and hold 24 features"),
        ({"n_children": 250}, "world.n_children: 250 beside 16 parents of 256 features"),
        ({"n_own": 3}, "world.n_shared: 24 shared and 3 own of 24 causal features"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        WorldSettings(seed=0, **changes)
    assert str(error.value) == message


def test_a_world_that_does_not_keep_to_the_protocol_is_refused() -> None:
    long = Orthogonal(0)
    long.features = long.features * 2
    with pytest.raises(ConfigError, match=r"^world.features: norms from 2 to 2 must be 1$"):
        check_world(long)
    moving = Orthogonal(0)
    moving.draw = lambda tokens, seed: (torch.rand(tokens, 16), torch.rand(tokens, 12))  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"^world.draw: two calls with one seed differ"):
        check_world(moving)


def test_regimes_are_named() -> None:
    assert [r.name for r in chosen_regimes(["neg", "pos"])] == ["neg", "pos"]
    with pytest.raises(ConfigError, match=r"^regimes: 'odd' is unknown; known are pos, indep, neg, small_d, domains$"):
        chosen_regimes(["pos", "odd"])
