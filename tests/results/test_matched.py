"""Baselines that match measured L0: by made-up results, and where a sweep's folder says what there is."""

import json
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.plan.trials import expand
from dmsae_ray.results.folders import create_folders, experiment_of
from dmsae_ray.results.matched import matched_baselines, matched_before
from dmsae_ray.results.trial import TrialResult, parse_result
from tests.report.summaries import write_transfer


def experiment(tmp_path: Path, baseline_k: Any = "matched", **transfer: Any) -> Experiment:
    return parse_experiment(
        {
            "name": "t",
            "output": str(tmp_path),
            "model": {"name": "tiny", "layer": 1},
            "sae": {"n_latents": 64},
            "transfer": {"arms": ["distilled", "baseline"], "baseline_k": baseline_k, **transfer},
            "sweep": {"k": [4, 8], "seeds": [1, 2, 3]},
        }
    )


def results(
    asked: Experiment, l0: dict[tuple[int, str], list[float]], collapsed: tuple[str, ...] = ()
) -> list[TrialResult]:
    """Results of all trials: an SAE around a core measures `l0` by seed, a baseline its k."""
    found = []
    for trial in expand(asked):
        values = l0.get((trial.setting.k, trial.setting.core_sparsity), [trial.setting.k] * 3)
        measured = trial.setting.k if "baseline" in trial.trial_id else values[trial.seed - 1]
        record = {
            **dict.fromkeys(("carried", "carryover", "chance", "new", "jaccard", "core_share")),
            **{"cycle": 1, "arm": "distilled", "key": "", "seed": 0, "n_core_in": 5, "n_core": 5, "pool": 9},
            "collapsed": "no latent fires" if trial.trial_id in collapsed else None,
            **{"tokens": 1, "flops": 10.0, "seconds": 1.0, "cached": False, "metrics": {"l0": measured}},
        }
        found.append(parse_result({"params": trial.params(), "records": [record]}))
    return found


def test_each_sae_around_a_core_has_a_baseline_of_its_l0(tmp_path: Path) -> None:
    asked = experiment(tmp_path)
    # 20.5 is rounded up; two settings at 21 share a baseline, and the grid has one of 8.
    l0 = {(4, "dense"): [20.0, 20.5, 21.0], (4, "sparse"): [8.2, 7.8, 8.4], (8, "dense"): [21.4, 21.0, 20.9]}
    found = matched_baselines(asked, results(asked, l0))
    assert found is not None
    assert found.lines == ("k = 21 matches the L0 of k = 4 dense distilled and k = 8 dense distilled",)
    assert found.left_out == () and found.experiment.baseline_ks == (4, 8, 21)
    before = {trial.trial_id for trial in expand(asked)}
    added = [trial.trial_id for trial in expand(found.experiment) if trial.trial_id not in before]
    assert added == [f"k21-dense-baseline-seed{seed}" for seed in (1, 2, 3)]
    assert before < {trial.trial_id for trial in expand(found.experiment)}


def test_seeds_that_collapsed_are_in_no_mean(tmp_path: Path) -> None:
    asked = experiment(tmp_path, core_sparsity=["dense"])
    l0 = {(4, "dense"): [30.0, 10.0, 14.0], (8, "dense"): [9.0, 9.0, 9.0]}
    lost = ("k4-dense-distilled-seed1", *(f"k8-dense-distilled-seed{seed}" for seed in (1, 2, 3)))
    found = matched_baselines(asked, results(asked, l0, lost))
    assert found is not None and found.lines == ("k = 12 matches the L0 of k = 4 dense distilled",)
    assert found.left_out == ("k = 8 dense distilled has no baseline of its L0: every seed collapsed",)


def test_what_the_dictionary_does_not_allow_is_left_out_and_said(tmp_path: Path) -> None:
    asked = experiment(tmp_path, core_sparsity=["dense"])
    found = matched_baselines(asked, results(asked, {(4, "dense"): [70.0] * 3, (8, "dense"): [0.2] * 3}))
    assert found is not None and found.lines == () and found.experiment.baseline_ks == (4, 8)
    allowed = "k must be from 1 to below sae.n_latents = 64"
    assert found.left_out == (
        f"k = 4 dense distilled has no baseline of its L0, 70.0: {allowed}",
        f"k = 8 dense distilled has no baseline of its L0, 0.2: {allowed}",
    )


def test_nothing_is_matched_before_all_others_have_finished_or_unasked(tmp_path: Path) -> None:
    asked = experiment(tmp_path)
    every = results(asked, {})
    assert matched_baselines(asked, every[1:]) is None
    assert matched_baselines(experiment(tmp_path, None), every) is None
    assert matched_baselines(experiment(tmp_path, [4, 8]), every) is None


def test_a_list_with_matched_trains_its_k_and_those_that_match(tmp_path: Path) -> None:
    asked = experiment(tmp_path, ["matched", 16], core_sparsity=["dense"])
    found = matched_baselines(asked, results(asked, {(4, "dense"): [16.3] * 3, (8, "dense"): [8.0] * 3}))
    # 16 is there; the list is in place of the grid, whose 8 is not.
    assert found is not None and found.experiment.baseline_ks == (16, 8)


def test_both_rounds_are_in_one_folder_whose_config_still_asks_for_matching(tmp_path: Path) -> None:
    asked = experiment(tmp_path, core_sparsity=["dense"])
    folders = create_folders(asked)
    assert matched_before(asked) is None
    for trial in expand(asked):
        write_transfer(folders.sweep, trial.setting.k, trial.params()["arm"], "dense", trial.seed)
    found = matched_before(asked)  # the core adds 5 to the L0 there
    assert found is not None and found.experiment.baseline_ks == (4, 8, 9, 13)
    assert create_folders(found.experiment).name == folders.name
    whole = experiment_of(folders.sweep)
    assert whole.transfer is not None and whole.transfer.baseline_k == (4, 8, 9, 13, "matched")
    # The command's own file, without the matched k, finds them there, and leaves the config as it is.
    assert create_folders(asked).name == folders.name and experiment_of(folders.sweep) == whole
    again = matched_before(asked)
    assert again is not None and again.experiment == found.experiment


def test_k_and_budgets_of_baselines_are_added_to_a_sweep_that_was_begun_without(tmp_path: Path) -> None:
    plain = experiment(tmp_path, None)
    folder = create_folders(plain)
    more = experiment(tmp_path, [4, 93 // 3], baseline_budgets=[1, 9])
    assert create_folders(more) == folder
    whole = experiment_of(folder.sweep).transfer
    assert whole is not None and (whole.baseline_k, whole.baseline_budgets) == ((4, 31, 8), (1.0, 9.0))
    assert create_folders(experiment(tmp_path, "matched")) == folder
    whole = experiment_of(folder.sweep).transfer
    assert whole is not None and whole.baseline_k == (4, 8, 31, "matched")
    assert json.loads(json.dumps(plain.shared_settings())) == json.loads(json.dumps(more.shared_settings()))


@pytest.mark.parametrize(("reason", "collapse"), [(None, None), ("no latent fires", "no latent fires in cycle 1")])
def test_a_transfer_that_collapsed_says_so(tmp_path: Path, reason: str | None, collapse: str | None) -> None:
    """Its summary has no field of its own for it, as that of cycles has."""
    lost = ("k4-dense-distilled-seed1",) if reason else ()
    assert results(experiment(tmp_path), {}, lost)[0].collapse == collapse
