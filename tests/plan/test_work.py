"""What is left of a sweep: counted and timed by hand."""

from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.plan.plan import plan_experiment
from dmsae_ray.plan.schedule import schedule
from dmsae_ray.plan.work import Done, Pace, RunningTrial, Work, left_line, seconds_left, trainings_left, work_of


def experiment(**sections: Any) -> Experiment:
    """Two coverages and two seeds of three cycles and a control: cycle 0 of each seed is shared."""
    tree = {
        "name": "x",
        "model": {"name": "tiny", "layer": 1},
        "sae": {"k": 20},
        "distill": {"cycles": 3, "controls": ["gaussian"]},
        "sweep": {"coverage": [0.3, 0.6], "seeds": [0, 1]},
    }
    return parse_experiment({**tree, **sections})


def work(**sections: Any) -> Work:
    return work_of(experiment(**sections))


A, B, C, D = "k20-tau0.3-seed0", "k20-tau0.6-seed0", "k20-tau0.3-seed1", "k20-tau0.6-seed1"


def test_the_work_is_that_of_the_plan() -> None:
    counted, plan = work(), plan_experiment(experiment())
    assert [trial.trial_id for trial in counted.trials] == [A, B, C, D]
    assert (counted.trainings, counted.trainings_of_trial) == (18, 5)  # 4 x (3 cycles + control) + 2 x cycle 0
    assert (counted.trainings, counted.training_tokens) == (plan.trainings, plan.steps * plan.batch_size)


@pytest.mark.parametrize(
    ("done", "left"),
    [
        ({}, 18),
        ({A: Done(1, True)}, 17),  # its cycle 0 is that of B too
        ({A: Done(5, True, True)}, 13),  # B 4, and 5 + 4 of the other seed
        ({A: Done(3, True), B: Done(1, True)}, 2 + 4 + 9),
        ({name: Done(5, True, True) for name in (A, B, C, D)}, 0),
        ({A: Done(2, True, True)}, 13),  # it collapsed or failed: nothing more comes of it
    ],
)
def test_trainings_that_are_left_are_counted_once(done: dict[str, Done], left: int) -> None:
    assert trainings_left(work(), done) == left


def test_trainings_of_several_lengths_are_left_by_their_tokens() -> None:
    axes = {"recipe.tokens": [500_000_000, 1_000_000_000]}
    tree = {"coverage": [0.3, 0.6], "seeds": [0], "axes": axes}
    counted, plan = work(sweep=tree), plan_experiment(experiment(sweep=tree))
    short, long = (trial.trial_id for trial in counted.trials[::2])
    one = counted.tokens_of(counted.trials[0])
    assert [counted.tokens_of(t) / one for t in counted.trials] == pytest.approx(
        [1, 1, 2, 2], rel=1e-5
    )  # whole batches
    # Of each length 2 x (3 cycles + control) + cycle 0, which two coverages share.
    assert trainings_left(counted, {}) == 18 and plan.training_tokens == pytest.approx((9 + 9 * 2) * one, rel=1e-5)
    line = left_line(plan, counted, {short: Done(5, True, True), long: Done(1, True)}, harvested=True)
    assert line.startswith("3 of 4 trials, 12 of 18 SAE trainings, 10B training tokens")  # (4 + 8 x 2) x 500M


def test_a_line_says_what_is_left_and_what_it_costs() -> None:
    plan, counted = plan_experiment(experiment()), work()
    line = left_line(plan, counted, {A: Done(5, True, True)}, harvested=True)
    flops = (plan.flops.training + plan.flops.evaluation) * 13 / 18
    assert line.startswith("3 of 4 trials, 13 of 18 SAE trainings, ") and f"{flops:.2g} FLOP" in line
    more = left_line(plan, counted, {A: Done(5, True, True)}, harvested=False)
    assert f"{flops + plan.flops.harvest:.2g} FLOP" in more


@pytest.mark.parametrize("places", [1, 2, 3, 4])
def test_nothing_done_takes_as_long_as_the_schedule_of_the_plan(places: int) -> None:
    plan = plan_experiment(experiment())
    hours = schedule(plan, places).total - plan.harvest_hours
    seconds = seconds_left(work(), {}, [], Pace(plan.training.hours * 3600, 0.0, places))
    assert seconds == pytest.approx(hours * 3600)


def test_what_waits_begins_when_a_place_and_its_cycle_0_are_there() -> None:
    counted = work()
    a, _, c, _ = counted.trials
    running = [RunningTrial(a, 45.0, 5.0), RunningTrial(c, 20.0, 0.0)]
    done = {A: Done(), C: Done(3, True)}
    # C's place is free at 20: B finds A's cycle 0 (there since 5), begins within 2, trains four times 10 until 62.
    # A's is free at 45: D finds C's, until 87.
    assert seconds_left(counted, done, running, Pace(10.0, 2.0, 2)) == pytest.approx(87.0)
    # If A's cycle 0 comes only at 30, D takes the place at 20 (until 62), and B that of A at 45.
    running[0] = RunningTrial(a, 45.0, 30.0)
    assert seconds_left(counted, done, running, Pace(10.0, 2.0, 2)) == pytest.approx(87.0)
    # A third place: D at 0 until 42; at 20 B must wait, at 30 it begins.
    assert seconds_left(counted, done, running, Pace(10.0, 2.0, 3)) == pytest.approx(30 + 2 + 40)


def test_a_baseline_of_more_tokens_counts_as_many_times() -> None:
    sections = {"transfer": {"arms": ["baseline"], "baseline_budgets": [1, 9]}, "sweep": {"k": [20], "seeds": [0]}}
    plan, counted = plan_experiment(experiment(**sections)), work(**sections)
    short, long = counted.trials
    assert counted.tokens_of(long) == 9 * counted.tokens_of(short) == 9 * counted.training_tokens
    left = left_line(plan, counted, {short.trial_id: Done(1, False, True)}, harvested=True)
    assert left.startswith("1 of 2 trials, 1 of 2 SAE trainings, 4.5B training tokens, ")
    assert f"{plan.flops.training * 0.9 + plan.flops.evaluation / 2:.2g} FLOP" in left
    assert seconds_left(counted, {}, [], Pace(10.0, 2.0, 1)) == pytest.approx(2 + 10 + 2 + 90)
    hours = schedule(plan, 2).total - plan.harvest_hours
    assert hours == pytest.approx(9 * max(plan.training.computing, plan.training.reading) + plan.training.evaluating)


def test_a_sweep_of_transfers_or_with_a_given_sae_shares_nothing(tmp_path: Path) -> None:
    given = work(distill={"cycles": 3, "controls": [], "initial_sae": str(tmp_path)})
    assert (given.trainings, given.trainings_of_trial, given.counts(0), given.counts(1)) == (12, 3, False, True)
    moved = work(transfer={"core": "c", "arms": ["distilled", "baseline"]}, sweep={"k": [4, 8]})
    assert moved.trainings == len(moved.trials) and moved.trainings_of_trial == 1 and moved.cycles is None
    assert moved.counts(0) and moved.counts(1)
    assert trainings_left(moved, {moved.trials[0].trial_id: Done(1, False, True)}) == len(moved.trials) - 1
