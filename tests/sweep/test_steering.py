"""Which schedulers and searchers of Ray Tune are taken; a scheduler's word is to stop or to go on."""

from typing import Any

import pytest
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.sweep.steering import NOBODY, OnlyStops, Steering, check_steering

TREE: dict[str, Any] = {"name": "x", "model": {"name": "tiny", "layer": 1}, "distill": {"cycles": 2}}
TOKENS = 3 * 25_600


def experiment(**sections: Any) -> Experiment:
    recipe = {"tokens": 25_600, "batch_size": 256, "warmup_steps": 10}
    return parse_experiment({**TREE, "recipe": recipe, **sections})


def asha(**options: Any) -> ASHAScheduler:
    return ASHAScheduler(**{"time_attr": "tokens", "metric": "fvu", "mode": "min", "max_t": TOKENS + 1, **options})


def searcher(**options: Any) -> OptunaSearch:
    return OptunaSearch(**{"metric": "loss_recovered", "mode": "max", **options})


@pytest.mark.parametrize(
    "steering",
    [
        NOBODY,
        Steering(asha()),
        Steering(asha(time_attr="cycle", max_t=3)),
        Steering(asha(time_attr="training_iteration", max_t=100)),
        Steering(asha(max_t=1000, stop_last_trials=False)),
        Steering(MedianStoppingRule(metric="loss", mode="min")),
        Steering(FIFOScheduler()),
        Steering(None, searcher(), 4),
        Steering(asha(), ConcurrencyLimiter(searcher(), 2)),
    ],
)
def test_what_can_work_is_taken(steering: Steering) -> None:
    check_steering(steering, experiment())


@pytest.mark.parametrize(
    ("steering", "line"),
    [
        (Steering("asha"), r"^scheduler str: allowed: a scheduler of ray\.tune\.schedulers$"),
        (Steering(HyperBandScheduler()), r"^scheduler HyperBandScheduler: it pauses or changes trials; allowed: "),
        (
            Steering(PopulationBasedTraining(hyperparam_mutations={"k": [1, 2]})),
            r"^scheduler PopulationBasedTraining: it pauses",
        ),
        (Steering(MedianStoppingRule(metric="loss", mode="min", hard_stop=False)), r"MedianStoppingRule: it pauses"),
        (
            Steering(asha(metric="accuracy")),
            r"^scheduler AsyncHyperBandScheduler: metric 'accuracy': allowed: loss, fvu, loss_recovered, l0, carryover",
        ),
        (Steering(asha(metric=None)), r"metric None: allowed: loss"),
        (Steering(MedianStoppingRule(mode="min")), r"^scheduler MedianStoppingRule: metric None: allowed: loss"),
        (Steering(None, searcher(metric=None)), r"^searcher OptunaSearch: metric None: allowed: fvu"),
        (Steering(asha(mode=None)), r"mode None: allowed: 'min' or 'max'$"),
        (Steering(asha(time_attr="step")), r"time_attr 'step': allowed: tokens, cycle, training_iteration"),
        (Steering(asha(max_t=TOKENS)), r"max_t 76,800: a trial ends at tokens 76,800 .*allowed: more than 76,800$"),
        (Steering(asha(time_attr="cycle", max_t=2)), r"max_t 2: a trial ends at cycle 2 and would be stopped there"),
        (Steering(None, "optuna"), r"^searcher str: allowed: a searcher of ray\.tune\.search"),
        (Steering(None, BasicVariantGenerator()), r"^searcher BasicVariantGenerator: allowed: a searcher"),
        (Steering(None, searcher(metric="loss")), r"^searcher OptunaSearch: metric 'loss': allowed: fvu, loss_rec"),
        (
            Steering(None, ConcurrencyLimiter(searcher(metric="loss"), 2)),
            r"^searcher ConcurrencyLimiter: metric 'loss': allowed: ",
        ),
        (Steering(None, searcher(), 0), r"^num_samples 0: allowed: 1 or more$"),
        (Steering(None, None, 3), r"^num_samples 3: it is of a searcher, and there is none$"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(steering: Steering, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as raised:
        check_steering(steering, experiment())
    assert "\n" not in str(raised.value)


def test_a_searcher_is_for_cycles_on_one_store() -> None:
    layers = experiment(sweep={"axes": {"model.layer": [0, 1]}})
    with pytest.raises(ConfigError, match=r"^searcher OptunaSearch: sweep\.axes makes 2 stores of activations"):
        check_steering(Steering(None, searcher()), layers)
    check_steering(Steering(asha()), layers)
    transfer = experiment(transfer={"core": "core.safetensors"})
    with pytest.raises(ConfigError, match=r"^searcher OptunaSearch: transfers compare all their arms"):
        check_steering(Steering(None, searcher()), transfer)
    with pytest.raises(ConfigError, match=r"max_t 25,600: a trial ends at tokens 25,600"):
        check_steering(Steering(asha(max_t=25_600)), transfer)


@pytest.mark.parametrize("said", [TrialScheduler.STOP, TrialScheduler.PAUSE, TrialScheduler.CONTINUE])
def test_a_pause_is_not_obeyed(said: str) -> None:
    class Always(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            return said

    found = OnlyStops(Always()).on_trial_result(None, None, {})  # type: ignore[no-untyped-call]
    assert found == ("STOP" if said == "STOP" else "CONTINUE")
