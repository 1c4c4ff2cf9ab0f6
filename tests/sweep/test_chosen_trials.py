"""Trials that a searcher of Ray Tune asks for: by their points, with the next seed, told what is known."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.trials import Trial, expand
from dmsae_ray.results.reports import failure_metrics
from dmsae_ray.results.steered import Steered
from dmsae_ray.sweep.chosen_trials import ChosenTrials, point_of
from dmsae_ray.sweep.trial_search import TrialSearch

EXPERIMENT = parse_experiment(
    {
        "name": "x",
        "model": {"name": "tiny", "layer": 1},
        "sweep": {"k": [4, 8], "coverage": [0.3, 0.5], "seeds": [0, 1], "axes": {"recipe.lr": [0.001, 0.002]}},
    }
)
TRIALS = expand(EXPERIMENT)
LOW, HIGH = ({"k": 4, "coverage": tau, "recipe.lr": 0.001} for tau in (0.3, 0.5))


class Script(Searcher):
    """Ask for what a list says; remember what it is told."""

    def __init__(self, *asks: Mapping[str, Any] | str | None) -> None:
        super().__init__(metric="loss_recovered", mode="max")
        self.asks = list(asks)
        self.space: dict[str, Any] = {}
        self.answers: dict[str, tuple[Any, bool]] = {}
        self.reports: list[tuple[str, float]] = []

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        self.space = {name: choice.categories for name, choice in config.items()}
        return True

    def suggest(self, trial_id: str) -> Any:
        return self.asks.pop(0) if self.asks else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.reports.append((trial_id[-8:], result["loss_recovered"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.answers[trial_id[-8:]] = ((result or {}).get("loss_recovered"), error)


def of(point: Mapping[str, Any], seed: int) -> Trial:
    (found,) = [trial for trial in TRIALS if point_of(trial) == point and trial.seed == seed]
    return found


def chosen(
    script: Searcher, room: int = 9, known: Mapping[Trial, float] | None = None, first: Iterable[Trial] = ()
) -> tuple[ChosenTrials, Steered]:
    numbers = {trial.trial_id: {"loss_recovered": value} for trial, value in (known or {}).items()}
    steered = Steered(searcher="Script", room=room)
    return ChosenTrials(script, TRIALS, numbers, list(first), steered, lambda: None), steered


def found(value: float) -> dict[str, Any]:
    """The last result of a trial, as Tune flattens it: of a control, which has no numbers of its own."""
    return {"trial_report/known/loss_recovered": value, "trial_report/waits": "", "done": True}


def names(*trials: Trial) -> list[str]:
    return [trial.trial_id for trial in trials]


def test_the_space_is_the_axes_of_the_grid_and_a_point_that_is_asked_again_gets_the_next_seed() -> None:
    script = Script(LOW, HIGH, LOW)
    trials, steered = chosen(script)
    assert script.space == {"k": [4, 8], "coverage": [0.3, 0.5], "recipe.lr": [0.001, 0.002]}
    assert [trials.next() for _ in range(3)] == [of(LOW, 0), of(HIGH, 0), of(LOW, 1)]
    assert steered.asked == names(of(LOW, 0), of(HIGH, 0), of(LOW, 1)) and steered.room == 6
    assert trials.more and trials.next() is None and not trials.more and steered.room == 0  # the script is at its end


def test_the_searcher_hears_of_its_own_trials_alone_and_how_they_ended() -> None:
    script = Script(LOW, HIGH, LOW)
    trials, _ = chosen(script)
    for _ in range(3):
        trials.next()
    trials.reported(of(LOW, 0), {"loss": 1.0})  # its metric is not known before the first cycle has ended
    trials.reported(of(LOW, 0), {"loss_recovered": 0.5})
    trials.ended(of(LOW, 0), found(0.75), error=False)
    trials.ended(of(HIGH, 0), failure_metrics("no reason"), error=False)
    trials.ended(of(LOW, 1), None, error=True)
    assert script.reports == [("00000000", 0.5)]
    assert script.answers == {"00000000": (0.75, False), "00000001": (None, True), "00000002": (None, True)}


def test_what_is_known_is_told_and_costs_nothing() -> None:
    script = Script(LOW, HIGH, LOW, LOW, HIGH)
    trials, steered = chosen(script, known={of(LOW, 0): 0.25, of(LOW, 1): 0.75})
    assert trials.next() == of(HIGH, 0)
    assert trials.next() == of(HIGH, 1)
    assert steered.asked == names(of(HIGH, 0), of(HIGH, 1))
    # The two seeds in turn, and then, since there is no third, their mean.
    assert script.answers == {"00000000": (0.25, False), "00000002": (0.75, False), "00000003": (0.5, False)}


def test_a_point_whose_seeds_all_run_is_answered_when_one_has_ended() -> None:
    script = Script(LOW, LOW, LOW, HIGH)
    trials, _ = chosen(script)
    assert [trials.next(), trials.next(), trials.next()] == [of(LOW, 0), of(LOW, 1), None]
    assert trials.more and trials.next() is None and len(script.asks) == 1  # it is not asked for more meanwhile
    trials.ended(of(LOW, 1), found(0.5), error=False)
    assert script.answers == {"00000001": (0.5, False), "00000002": (0.5, False)}
    assert trials.next() == of(HIGH, 0)


def test_a_point_whose_seeds_all_failed_is_answered_with_an_error() -> None:
    script = Script(LOW, LOW, LOW)
    trials, _ = chosen(script)
    for _ in range(2):
        trials.next()
    for seed in (0, 1):
        trials.ended(of(LOW, seed), None, error=True)
    assert trials.next() is None and script.answers["00000002"] == (None, True)


def test_no_more_begin_than_there_is_room_for() -> None:
    trials, steered = chosen(Script(LOW, HIGH, LOW), room=2, known={of(LOW, 0): 0.5})
    assert [trials.next(), trials.next(), trials.next()] == [of(HIGH, 0), of(LOW, 1), None]
    assert len(steered.asked) == 2 and not trials.more


def test_a_searcher_that_asks_for_one_point_for_ever_is_ended() -> None:
    trials, _ = chosen(Script(*[LOW] * 500), known={of(LOW, 0): 0.5, of(LOW, 1): 0.5})
    assert trials.next() is None and not trials.more


def test_trials_that_were_begun_go_first_and_may_be_asked_for() -> None:
    script = Script(LOW, HIGH)
    trials, steered = chosen(script, first=[of(LOW, 0)])
    search = TrialSearch(TRIALS, False, 3, trials)
    begun = [search.suggest(name) for name in "ab"]
    assert [one["trial_id"] for one in begun] == [of(LOW, 0).trial_id, of(HIGH, 0).trial_id]
    assert steered.asked == names(of(HIGH, 0))
    search.on_trial_complete("a", found(0.5))
    search.on_trial_complete("a", found(0.5))  # Tune says it again after an error of a callback
    assert script.answers == {"00000000": (0.5, False)}
    assert search.suggest("c") is None and search.suggest("c") == Searcher.FINISHED


def test_a_searcher_that_has_nothing_to_say_ends_the_search() -> None:
    trials, steered = chosen(Script(None, LOW))
    assert TrialSearch(TRIALS, False, 2, trials).suggest("a") == Searcher.FINISHED and steered.room == 0


def test_trials_that_share_a_cycle_0_wait_for_it_while_others_are_asked_for() -> None:
    other = {"k": 8, "coverage": 0.3, "recipe.lr": 0.001}
    trials, _ = chosen(Script(LOW, HIGH, other))
    search = TrialSearch(TRIALS, True, 3, trials)
    begun = [search.suggest(name)["trial_id"] for name in "ab"]
    assert begun == [of(LOW, 0).trial_id, of(other, 0).trial_id]  # HIGH has the cycle 0 of LOW
    search.on_trial_complete("a", found(0.5))
    assert search.suggest("c")["trial_id"] == of(HIGH, 0).trial_id


def test_a_point_that_is_not_in_the_grid_is_refused() -> None:
    trials, _ = chosen(Script({**LOW, "k": 5}))
    with pytest.raises(ConfigError, match=r"^searcher Script: it asks for \{'k': 5, .*allowed: k: 4, 8; coverage: "):
        trials.next()


def test_a_collapsed_trial_is_told_as_one_that_failed() -> None:
    script = Script(LOW)
    trials, _ = chosen(script)
    trials.next()
    trials.ended(of(LOW, 0), {"trial_report": {"known": {"tokens": 1.0, "cycle": 2.0}}}, error=False)
    assert script.answers == {"00000000": (None, True)}


def test_a_seed_without_the_metric_does_not_spoil_the_mean() -> None:
    script = Script(LOW, LOW, LOW)
    trials, _ = chosen(script)
    for _ in range(2):
        trials.next()
    trials.ended(of(LOW, 0), found(0.75), error=False)
    trials.ended(of(LOW, 1), {"trial_report": {"known": {"tokens": 1.0}}}, error=False)  # stopped in its cycle 0
    assert trials.next() is None and script.answers["00000002"] == (0.75, False)


def test_a_searcher_that_counts_its_trials_goes_on_after_an_interruption() -> None:
    """Ray's own limiter, used again in the next call: what ran when the session ended must not count any more."""
    limiter = ConcurrencyLimiter(Script(LOW, HIGH, LOW), 2)
    trials, _ = chosen(limiter)
    assert [trials.next(), trials.next(), trials.next()] == [of(LOW, 0), of(HIGH, 0), None]
    trials.end()
    assert limiter.live_trials == set()
    again, steered = chosen(limiter, first=[of(LOW, 0), of(HIGH, 0)])
    assert again.next() is None  # it asks for LOW, whose first seed runs already, and then for nothing more
    for trial in (of(LOW, 0), of(HIGH, 0)):
        again.ended(trial, found(0.5), error=False)
    assert limiter.live_trials == set() and steered.asked == []


@pytest.mark.parametrize("values", [{"k": 4}, {"k": 5, "coverage": 0.3, "recipe.lr": 0.001}])
def test_a_point_of_optuna_that_cannot_be_asked_for_is_one_line(values: dict[str, Any]) -> None:
    search = OptunaSearch(metric="loss_recovered", mode="max", points_to_evaluate=[values])
    with pytest.raises(ConfigError, match=r"^searcher OptunaSearch: ") as raised:
        trials, _ = chosen(search)
        for _ in range(2):
            trials.next()
    assert "\n" not in str(raised.value)
