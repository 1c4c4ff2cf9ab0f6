"""Which schedulers and searchers of Ray Tune are taken; a scheduler's word is to stop or to go on."""

import threading
from types import SimpleNamespace
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
from dmsae_ray.results.reports import failure_metrics
from dmsae_ray.sweep.steering import NOBODY, OnlyStops, Steering, check_steering

TREE: dict[str, Any] = {"name": "x", "model": {"name": "tiny", "layer": 1}, "distill": {"cycles": 2}}
TOKENS = 3 * 25_600


def experiment(**sections: Any) -> Experiment:
    recipe = {"tokens": 25_600, "batch_size": 256, "warmup_steps": 10}
    return parse_experiment({**TREE, "recipe": recipe, **sections})


def asha(**options: Any) -> ASHAScheduler:
    return ASHAScheduler(**{"time_attr": "tokens", "metric": "fvu", "mode": "min", "max_t": TOKENS, **options})


def searcher(**options: Any) -> OptunaSearch:
    return OptunaSearch(**{"metric": "loss_recovered", "mode": "max", **options})


@pytest.mark.parametrize(
    "steering",
    [
        NOBODY,
        Steering(asha()),
        Steering(asha(time_attr="cycle", max_t=2)),
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
        (Steering(asha(max_t=TOKENS - 1)), r"max_t 76,799: trials end at tokens 76,800 .*allowed: 76,800 or more$"),
        (Steering(asha(time_attr="cycle", max_t=1)), r"max_t 1: trials end at cycle 2 and would all be stopped before"),
        (Steering(None, "optuna"), r"^searcher str: allowed: a searcher of ray\.tune\.search"),
        (Steering(None, BasicVariantGenerator()), r"^searcher BasicVariantGenerator: allowed: a searcher"),
        (Steering(None, searcher(metric="loss")), r"^searcher OptunaSearch: metric 'loss': allowed: fvu, loss_rec"),
        (
            Steering(None, ConcurrencyLimiter(searcher(metric="loss"), 2)),
            r"^searcher ConcurrencyLimiter: metric 'loss': allowed: ",
        ),
        (Steering(None, searcher(), 0), r"^num_samples 0: allowed: a whole number, 1 or more$"),
        (Steering(None, searcher(), "4"), r"^num_samples '4': allowed: a whole number, 1 or more$"),
        (Steering(None, searcher(), True), r"^num_samples True: allowed: a whole number, 1 or more$"),
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
    check_steering(Steering(asha(max_t=25_600)), transfer)
    with pytest.raises(ConfigError, match=r"max_t 25,599: trials end at tokens 25,600"):
        check_steering(Steering(asha(max_t=25_599)), transfer)


class Scripted(FIFOScheduler):
    """Say one thing, and note what it is told."""

    def __init__(self, says: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.says = says
        self.told: list[Any] = []

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.says

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.told.append({name: result[name] for name in ("tokens", "fvu") if name in result})

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.told.append("error")


def result(cycle: int | None, tokens: int, **more: Any) -> dict[str, Any]:
    known = {"trial_report/known/tokens": tokens, **({} if cycle is None else {"trial_report/known/cycle": cycle})}
    return {**known, **more}


TRIAL = SimpleNamespace(config={"trial_id": "t"}, trial_id="x")


@pytest.mark.parametrize("said", [TrialScheduler.STOP, TrialScheduler.PAUSE, TrialScheduler.CONTINUE])
def test_a_pause_is_not_obeyed(said: str) -> None:
    found = OnlyStops(Scripted(said), 2, {"t": TOKENS}).on_trial_result(None, TRIAL, result(0, 30_000))
    assert found == ("STOP" if said == "STOP" else "CONTINUE")


@pytest.mark.parametrize(("cycle", "tokens", "stops"), [(1, 76_799, True), (2, 76_800, False), (1, 76_800, False)])
def test_a_trial_at_its_end_is_not_stopped(cycle: int, tokens: int, stops: bool) -> None:
    """What is left to it is to write its result; also in its controls, and in the last point of its last training."""
    found = OnlyStops(Scripted(TrialScheduler.STOP), 2, {"t": TOKENS}).on_trial_result(
        None, TRIAL, result(cycle, tokens)
    )
    assert (found == "STOP") is stops


def test_a_scheduler_is_told_what_is_known_of_a_trial_that_ends_and_that_one_failed() -> None:
    inner = Scripted(TrialScheduler.CONTINUE)
    stops = OnlyStops(inner, 2, {"t": TOKENS})
    stops.on_trial_complete(None, TRIAL, {**result(2, TOKENS), "trial_report/known/fvu": 0.25})
    stops.on_trial_complete(None, TRIAL, failure_metrics("no reason"))
    assert inner.told == [{"tokens": TOKENS, "fvu": 0.25}, "error"]


class Named:
    """As much of a trial as schedulers look at."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.config = name, {"trial_id": name}


def test_a_failed_trial_does_not_break_the_rule_of_the_median() -> None:
    rule = OnlyStops(MedianStoppingRule(time_attr="tokens", metric="fvu", mode="min", grace_period=1), 2, {})
    trials = [Named(str(n)) for n in range(4)]
    controller = SimpleNamespace(get_live_trials=lambda: [])
    for trial in trials:
        rule.on_trial_add(controller, trial)
        rule.on_trial_result(controller, trial, {"tokens": 10.0, "fvu": 0.5, "training_iteration": 1})
    rule.on_trial_complete(controller, trials[0], failure_metrics("no reason"))
    rule.on_trial_complete(controller, trials[2], result(None, 5))  # it was stopped before its first cycle ended
    again = rule.on_trial_result(controller, trials[1], {"tokens": 20.0, "fvu": 0.5, "training_iteration": 2})
    assert again == "CONTINUE"


def test_a_scheduler_that_cannot_be_copied_is_one_line() -> None:
    scheduler = Scripted("CONTINUE")
    scheduler.told.append(threading.Lock())
    with pytest.raises(ConfigError, match=r"^scheduler Scripted: no copy can be made: cannot pickle"):
        OnlyStops.of(scheduler, experiment())
    assert isinstance(OnlyStops.of(asha(), experiment()), OnlyStops)
