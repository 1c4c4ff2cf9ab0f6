"""Which Matryoshka groups give up latents to the core."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import non_core_groups

SIZES = st.lists(st.integers(1, 200), min_size=1, max_size=6)


@given(SIZES, st.data())
def test_all_groups_keep_their_share(sizes: list[int], data: st.DataObject) -> None:
    n_core = data.draw(st.integers(0, sum(sizes) - len(sizes)))
    left = non_core_groups(sizes, sum(sizes), n_core, "all_groups")
    assert sum(left) == sum(sizes) - n_core and min(left) >= 1
    others = sum(sizes) - len(sizes)
    for size, kept in zip(sizes, left, strict=True):
        share = 1 + (size - 1) * (1 - n_core / others) if n_core else size
        assert abs(kept - share) < 1 + 1e-9 and kept <= size


@given(SIZES, st.data())
def test_the_last_group_gives_first(sizes: list[int], data: st.DataObject) -> None:
    n_core = data.draw(st.integers(0, sum(sizes) - len(sizes)))
    left = non_core_groups(sizes, sum(sizes), n_core)
    assert sum(left) == sum(sizes) - n_core and min(left) >= 1
    giving = [j for j, size in enumerate(sizes) if left[j] < size]
    if giving:
        assert left[: giving[0]] == tuple(sizes[: giving[0]]) and set(left[giving[0] + 1 :]) <= {1}


def test_by_hand() -> None:
    saebench = (2048, 4096, 8192, 16384, 34816)  # of 65,536
    assert non_core_groups(saebench, 65_536, 197) == (2048, 4096, 8192, 16384, 34619)
    assert non_core_groups(saebench, 65_536, 6554, "all_groups") == (1843, 3686, 7373, 14746, 31334)
    assert non_core_groups((1, 1, 10), 12, 9, "all_groups") == (1, 1, 1)
    assert non_core_groups((4, 4, 4), 12, 1, "all_groups") == (4, 4, 3)  # a tie: the earlier ones keep theirs
    assert non_core_groups((3, 4), 9, 2, "all_groups") == (3, 4)  # what adds up already stays as it is


@pytest.mark.parametrize("takes", ["last_group", "all_groups"])
def test_a_core_leaves_one_latent_to_each_group(takes: str) -> None:
    with pytest.raises(ConfigError, match=r"^core: 10 latents leave fewer than 1 of 12 to each of 3 groups$"):
        non_core_groups((4, 4, 4), 12, 10, takes)  # type: ignore[arg-type]


def test_an_unknown_rule_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^core_takes: 'first' must be one of last_group, all_groups$"):
        non_core_groups((4, 4), 8, 1, "first")  # type: ignore[arg-type]
