"""The grid of an experiment, and what trials are called."""

import json

from dmsae_ray.config import parse_experiment
from dmsae_ray.plan import Trial, expand


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
