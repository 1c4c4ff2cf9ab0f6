import math

import pytest
import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError
from dmsae_ray.groundtruth import (
    REGIMES,
    BenchmarkSettings,
    PlantedWorld,
    Regime,
    WorldSettings,
    check_world,
    chosen_regimes,
    importance,
    run_replica,
)

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


class Odd(Orthogonal):
    """Draws or gives logits in one way that is not allowed."""

    def __init__(self, fault: str) -> None:
        super().__init__(0)
        self.fault = fault

    def draw(self, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
        x, a = super().draw(tokens, seed)
        if tokens > {"NaN": 64, "late NaN": 2000}.get(self.fault, tokens):
            x[5] = math.nan
        if self.fault == "below":
            a = a - 1
        return (x.double() if self.fault == "wide" else x), (a[:, :-1] if self.fault == "few" else a)

    def logits(self, x: Tensor, domain: int) -> Tensor:
        found = super().logits(x.detach() if self.fault == "cut" else x, domain)
        if self.fault == "raises" and len(x) > 2000:
            raise RuntimeError("too many\ntokens")
        return (
            found.double() if self.fault == "wide logits" else found * (math.nan if self.fault == "nan logits" else 1)
        )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("NaN", "world.draw: x is NaN or infinite at token 5 of 1024; it must be finite"),
        ("wide", "world.draw: x: float64 must be float32"),
        ("few", "world.draw: x (1024, 16) and a (1024, 11) must be [tokens, 16] and [tokens, 12], for 1024 tokens"),
        ("below", "world.draw: a goes down to -1; it must not be below 0"),
        ("wide logits", "world.logits: float64 must be float32"),
        ("nan logits", "world.logits: NaN or infinite at 1024 tokens that are finite; it must be finite"),
        ("cut", "world.logits: it is not differentiable in x; it must be, without detach and no_grad"),
    ],
)
def test_what_a_world_answers_is_checked_before_it_is_used(fault: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_world(Odd(fault))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("late NaN", "odd, seed 3: world.draw: x is NaN or infinite at token 5 of 3000; it must be finite"),
        ("raises", "odd, seed 3: world.logits: RuntimeError: too many tokens (test_world.py, line "),
    ],
)
def test_what_a_world_answers_is_checked_wherever_it_is_used(fault: str, message: str) -> None:
    check_world(Odd(fault))
    settings = BenchmarkSettings(tokens=3000, importance_tokens=3000)
    with pytest.raises(ConfigError) as error:
        run_replica(Regime("odd", "", lambda seed: Odd(fault)), 3, settings)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_checked_world_has_what_the_world_has() -> None:
    world = Odd("none")
    checked = check_world(world)
    assert checked.out is world.out and torch.equal(checked.draw(9, 1)[0], world.draw(9, 1)[0])
    with pytest.raises(AttributeError):
        checked.nothing_of_this_name  # noqa: B018


def test_regimes_are_named() -> None:
    assert [r.name for r in chosen_regimes(["neg", "pos"])] == ["neg", "pos"]
    with pytest.raises(ConfigError, match=r"^regimes: 'odd' is unknown; known are pos, indep, neg, small_d, domains$"):
        chosen_regimes(["pos", "odd"])
