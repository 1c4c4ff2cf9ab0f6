"""The grid of an experiment, and what trials are called."""

import json
from typing import Any

import pytest
import torch

from dmsae_ray.config import parse_experiment
from dmsae_ray.distill.cycle_settings import cycle_key
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan import Trial, cycle_settings, expand


def test_a_core_size_names_its_trials_and_survives_a_trip_through_params() -> None:
    experiment = parse_experiment(
        {"name": "best", "distill": {"core_size": 32}, "sweep": {"k": [20, 40], "seeds": [0, 1]}}
    )
    trials = expand(experiment)
    names = ["k20-best32-seed0", "k40-best32-seed0", "k20-best32-seed1", "k40-best32-seed1"]
    assert [trial.trial_id for trial in trials] == names
    assert [Trial.from_params(json.loads(json.dumps(trial.params()))) for trial in trials] == trials
    assert (trials[0].setting.label, "coverage" in trials[0].params()) == ("k=20 best 32", False)


def test_a_coverage_names_its_trials_as_before() -> None:
    (trial,) = expand(parse_experiment({"name": "plain"}))
    assert trial.trial_id == "k80-tau0.9-seed0"
    assert trial.params() == {"k": 80, "coverage": 0.9, "core_sparsity": "dense", "seed": 0, "data_seed": 0}
    assert Trial.from_params(trial.params()) == trial


def transfer(**settings: Any) -> Any:
    sweep = {"k": [20, 40], "seeds": [3]}
    return parse_experiment({"name": "moved", "transfer": {"core": "c", **settings}, "sweep": sweep})


def names(**settings: Any) -> list[str]:
    return [trial.trial_id.removesuffix("-seed3") for trial in expand(transfer(**settings))]


CORE_20 = ["k20-dense-distilled", "k20-sparse-distilled", "k20-dense-gaussian", "k20-sparse-gaussian"]
CORE_40 = ["k40-dense-distilled", "k40-sparse-distilled", "k40-dense-gaussian", "k40-sparse-gaussian"]


def test_baselines_have_the_k_of_the_grid_or_those_that_are_listed() -> None:
    plain = [*CORE_20, "k20-dense-baseline", *CORE_40, "k40-dense-baseline"]
    assert names() == names(baseline_k="matched") == names(baseline_k=[20, "matched", 40]) == plain
    assert names(baseline_k=[93, 40]) == [*CORE_20, *CORE_40, "k40-dense-baseline", "k93-dense-baseline"]
    assert names(baseline_k=["matched"]) == [*CORE_20, *CORE_40]
    assert names(arms=["distilled"], core_sparsity=["sparse"], baseline_k=[93], baseline_budgets=[1, 9]) == [
        "k20-sparse-distilled",
        "k40-sparse-distilled",
    ]


def test_each_budget_is_a_set_of_baselines() -> None:
    found = expand(transfer(arms=["baseline"], baseline_k=[40, 93], baseline_budgets=[1, 9, 2.5]))
    assert [trial.trial_id for trial in found] == [
        *("k40-dense-baseline-seed3", "k93-dense-baseline-seed3"),
        *("k40-dense-baseline-x9-seed3", "k93-dense-baseline-x9-seed3"),
        *("k40-dense-baseline-x2.5-seed3", "k93-dense-baseline-x2.5-seed3"),
    ]
    assert [trial.params().get("budget") for trial in found] == [None, None, 9.0, 9.0, 2.5, 2.5]
    assert [Trial.from_params(json.loads(json.dumps(trial.params()))) for trial in found] == found
    assert found[2].setting.label == "k=40 baseline, 9 times the tokens" and found[0].setting.label == "k=40 baseline"
    assert names(baseline_budgets=[9]) == [*CORE_20, *CORE_40, "k20-dense-baseline-x9", "k40-dense-baseline-x9"]


def test_transfers_have_axes_and_a_baseline_is_trained_once_for_those_that_do_not_touch_it() -> None:
    axes = {"recipe.lr": [0.001, 0.003], "sae.core_takes": ["last_group", "all_groups"]}
    settings = {"core": "c", "core_sparsity": ["dense"], "baseline_budgets": [1, 9]}
    asked = parse_experiment({"name": "moved", "transfer": settings, "sweep": {"k": [20], "axes": axes}})
    found = expand(asked)
    around = [
        f"k20-dense-{arm}-lr{lr}-core_takes-{takes}-seed0"
        for lr in (0.001, 0.003)
        for takes in ("last_group", "all_groups")
        for arm in ("distilled", "gaussian")
    ]
    baselines = [f"k20-dense-baseline{more}-lr{lr}-seed0" for lr in (0.001, 0.003) for more in ("", "-x9")]
    assert sorted(trial.trial_id for trial in found) == sorted([*around, *baselines])
    assert [Trial.from_params(json.loads(json.dumps(trial.params()))) for trial in found] == found
    long = next(trial for trial in found if trial.budget == 9)
    assert long.setting.label == "k=20 baseline, 9 times the tokens, lr=0.001"
    assert {trial.setting.axes for trial in found if "baseline" not in trial.trial_id} == set(asked.points)


def test_the_budget_of_a_transfer_is_of_the_tokens_of_its_point() -> None:
    axes = {"recipe.tokens": [500_000_000, 250_000_000]}
    settings = {"arms": ["baseline"], "baseline_budgets": [1, 4]}
    asked = parse_experiment({"name": "moved", "transfer": settings, "sweep": {"k": [20], "axes": axes}})
    budgets = {trial.trial_id: trial.budget for trial in expand(asked)}
    assert budgets == {
        "k20-dense-baseline-tokens500000000-seed0": pytest.approx(1.0),
        "k20-dense-baseline-x4-tokens500000000-seed0": pytest.approx(4.0),
        "k20-dense-baseline-tokens250000000-seed0": pytest.approx(0.5, rel=1e-3),
        "k20-dense-baseline-x4-tokens250000000-seed0": pytest.approx(2.0, rel=1e-3),
    }


def test_a_budget_is_more_steps_and_another_cycle() -> None:
    import torch

    asked = transfer(arms=["baseline"], baseline_k=[40], baseline_budgets=[1, 9])
    asked = parse_experiment({**asked.model_dump(), "recipe": {"tokens": 2048 * 2000, "warmup_steps": 300}})
    one, nine = (cycle_settings(asked, trial.setting, 64) for trial in expand(asked))
    assert (one.steps, one.recipe.decay_start, one.recipe.warmup_steps) == (2000, 1600, 300)
    assert (nine.steps, nine.recipe.steps, nine.recipe.decay_start, nine.recipe.warmup_steps) == (
        *(18_000, 18_000),
        *(14_400, 300),
    )
    plain = parse_experiment({**asked.model_dump(), "transfer": None, "sweep": {"k": [40]}, "sae": {"k": 40}})
    keys = [cycle_key(s, "data", torch.empty(0, 64), 7, 0) for s in (one, nine)]
    (cycle_0,) = (cycle_settings(plain, trial.setting, 64) for trial in expand(plain))
    assert cycle_key(cycle_0, "data", torch.empty(0, 64), 7, 0) == keys[0] != keys[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"baseline_k": "all"},
            'transfer.baseline_k is "all"; it must be matched, or a list of whole numbers of at least 1, perhaps with '
            "matched among them",
        ),
        ({"baseline_k": [0, 4]}, "transfer.baseline_k is [0, 4]; it must be matched, or"),
        ({"baseline_k": [True]}, "transfer.baseline_k is [true]; it must be"),
        ({"baseline_k": [4, [5]]}, "transfer.baseline_k is [4, [5]]; it must be"),
        ({"baseline_k": [4, 4]}, "transfer.baseline_k is [4, 4]; it must hold at least one value, and none twice"),
        ({"baseline_k": []}, "transfer.baseline_k is []; it must hold at least one value"),
        ({"baseline_k": [65_536]}, "transfer.baseline_k has 65536; it must be below sae.n_latents = 65536"),
        (
            {"baseline_k": "matched", "arms": ["baseline"]},
            "transfer.baseline_k is \"matched\"; with transfer.arms ['baseline'] there is no core whose SAEs",
        ),
        ({"baseline_budgets": [1, 1]}, "transfer.baseline_budgets is [1.0, 1.0]; it must hold at least one value"),
        ({"baseline_budgets": [0]}, "transfer.baseline_budgets.0 is 0; it must be a number in (0, 1000]"),
        (
            {"baseline_budgets": [1, 0.001]},
            "transfer.baseline_budgets has 0.001, too few tokens: recipe.warmup_steps is 1000; it must be below the "
            "244 steps of a cycle",
        ),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        transfer(**settings)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def axes_of(**axes: Any) -> Any:
    listed = {name.replace("__", "."): values for name, values in axes.items()}
    return parse_experiment(
        {"name": "axes", "model": {"name": "tiny", "layer": 1}, "sweep": {"k": [8, 9], "seeds": [0, 1], "axes": listed}}
    )


def test_values_of_further_axes_are_in_names_labels_order_and_params() -> None:
    trials = expand(axes_of(distill__quantile=[0.999, 0.99], sae__core_sparsity=["dense", "sparse"]))
    assert [t.trial_id for t in trials if t.seed == 1 and t.setting.k == 9] == [
        "k9-tau0.9-quantile0.999-core_sparsity-dense-seed1",
        "k9-tau0.9-quantile0.999-core_sparsity-sparse-seed1",
        "k9-tau0.9-quantile0.99-core_sparsity-dense-seed1",
        "k9-tau0.9-quantile0.99-core_sparsity-sparse-seed1",
    ]
    assert len({t.trial_id for t in trials}) == len(trials) == 16
    assert [Trial.from_params(json.loads(json.dumps(t.params()))) for t in trials] == trials
    assert trials[0].setting.label == "k=8 τ=0.9 quantile=0.999 core_sparsity=dense"
    assert {t.setting.core_sparsity for t in trials if "sparse" in t.trial_id.split("-")} == {"sparse"}
    ordered = sorted({t.setting for t in trials}, key=lambda setting: setting.order)
    quantiles = [dict(s.axes)["distill.quantile"] for s in ordered if s.k == 8]
    assert quantiles == [0.99, 0.999, 0.99, 0.999]  # numbers by their size, for each kind of core


def test_trials_share_a_cycle_0_by_what_its_training_depends_on() -> None:
    """As the keys of the stored cycles say: scoring, and how a core is used, are no part of them."""
    experiment = axes_of(
        distill__quantile=[0.99, 0.999],
        distill__pool_groups=[1, 2],
        sae__core_sparsity=["dense", "sparse"],
        sae__core_decoder_init=["random", "tied"],
        recipe__lr=[1e-3, 3e-3],
        recipe__betas=[[0.9, 0.99], [0.9, 0.999]],
    )
    by_key: dict[str, set[object]] = {}
    for trial in expand(experiment):
        settings = cycle_settings(experiment.at(trial.setting.axes), trial.setting, 64)
        key = cycle_key(settings, "data", torch.empty(0, 64), trial.seed, 0)
        by_key.setdefault(key, set()).add(trial.cycle_0)
    assert len(by_key) == 2 * 2 * 4 and all(len(shared) == 1 for shared in by_key.values())
    assert len({next(iter(shared)) for shared in by_key.values()}) == len(by_key)
