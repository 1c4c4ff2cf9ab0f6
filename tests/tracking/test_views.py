"""Saved views of MLflow: they group, list and hide what the runs of a sweep have."""

from typing import Any

import pytest

from dmsae_ray.config import parse_experiment
from dmsae_ray.plan import expand
from dmsae_ray.tracking.names import setting_numbers
from dmsae_ray.tracking.views import View, views_of_sweep

AXES = {"recipe.lr": [0.001, 0.003], "distill.score": ["quantile", "mean_square"]}


def views(**sections: Any) -> tuple[list[View], set[str], set[str]]:
    """The views, the parameters in which trials differ, which their runs have, and the numbers of their settings."""
    experiment = parse_experiment({"name": "v", **sections})
    params = [trial.params() for trial in expand(experiment)]
    differing = {name for one in params for name in one if len({str(other.get(name)) for other in params}) > 1}
    numbers = {name for one in params for name in setting_numbers(one)}
    return views_of_sweep(experiment, "parent", "v"), differing, numbers


@pytest.mark.parametrize("sparsities", [["dense"], ["dense", "sparse"]])
def test_views_of_transfers_group_by_what_differs(sparsities: list[str]) -> None:
    transfer = {"core": "c", "core_sparsity": sparsities}
    found, differing, numbers = views(transfer=transfer, sweep={"k": [4, 8], "seeds": [0, 1], "axes": AXES})
    assert ("core_sparsity" in differing) == (len(sparsities) == 2)
    (grouped,) = [view for view in found if view.group_by]
    assert set(grouped.group_by) == differing - {"seed"}
    for view in found:
        assert {c for c in view.columns if c.startswith("params.")} <= {f"params.`{name}`" for name in differing}
        assert numbers - {"seed"} <= set(view.hidden)  # MLflow would draw a chart of each


def test_views_of_cycles_hide_the_numbers_of_axes() -> None:
    found, differing, numbers = views(sweep={"k": [4, 8], "coverage": [0.5, 0.9], "axes": AXES})
    assert "recipe.lr" in numbers & differing
    for view in found:
        assert "recipe.lr" in view.hidden
    (grouped,) = [view for view in found if view.group_by]
    assert {"recipe.lr", "distill.score"} <= set(grouped.group_by)
