"""How far, how fast and how long: a sweep of two coverages and two seeds, in numbers that are worked out by hand."""

from typing import Any

import pytest

from dmsae_ray.cli.progress import SweepProgress
from dmsae_ray.cli.progress_table import cycle_text
from dmsae_ray.cli.progress_view import CycleValues, TrialView
from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.distill.reports import CycleReport, WindowReport
from dmsae_ray.plan.work import work_of
from dmsae_ray.results.reports import TrialReport

A, B, C, D = "k4-tau0.3-seed0", "k4-tau0.6-seed0", "k4-tau0.3-seed1", "k4-tau0.6-seed1"
OWN = "distilled"
NOTHING = CycleValues()


def sweep(**sections: Any) -> SweepProgress:
    """Trainings of 100 steps of 10 tokens; each trial has cycles 0, 1, 2 and a control."""
    tree = {
        "name": "x",
        "model": {"name": "tiny", "layer": 1},
        "corpus": {"tokens": 5000},
        "sae": {"n_latents": 64, "group_sizes": [64], "k": 4},
        "recipe": {"tokens": 1000, "batch_size": 10, "warmup_steps": 5, "threshold_start_step": 20},
        "distill": {"cycles": 2, "controls": ["gaussian"]},
        "sweep": {"coverage": [0.3, 0.6], "seeds": [0, 1]},
    }
    progress = SweepProgress(work_of(parse_experiment({**tree, **sections})))
    assert progress.work.training_tokens == 1000
    return progress


def of(progress: SweepProgress, name: str, now: float) -> TrialView:
    (found,) = [view for view in progress.view(now).trials if view.trial.trial_id == name]
    return found


def test_nothing_is_said_before_anything_is_known() -> None:
    progress = sweep()
    view = progress.view(0.0)
    assert (view.seconds_left, view.tokens_per_s, view.trainings, view.trainings_in_all) == (None, None, 0, 14)
    progress.begin(A, 0.0)
    progress.window(A, OWN, 0, 200, 30.0)  # when it began is not known: no rate
    a, view = of(progress, A, 30.0), progress.view(30.0)
    assert (a.state, a.share, a.cycle, a.tokens_per_s, a.seconds_left) == ("running", 0.2, 0, None, None)
    assert (view.seconds_left, view.tokens_per_s) == (None, None)


def test_a_baseline_of_more_tokens_takes_as_many_times() -> None:
    transfer = {"arms": ["baseline"], "baseline_budgets": [1, 9]}
    progress = sweep(transfer=transfer, sweep={"seeds": [0]})
    short, long = (trial.trial_id for trial in progress.work.trials)
    progress.begin(short, 0.0)
    progress.window(short, "baseline", 0, 200, 30.0)
    progress.window(short, "baseline", 0, 400, 50.0)  # it began at 10 s, and takes 100 s
    progress.cycle(short, "baseline", 0, NOTHING, 110.0)
    progress.end(short, "finished")
    progress.begin(long, 110.0)
    progress.window(long, "baseline", 0, 900, 200.0)
    seen = of(progress, long, 200.0)
    assert seen.share == pytest.approx(0.1) and seen.seconds_left == pytest.approx(810)


def test_rate_and_time_of_a_first_training() -> None:
    progress = sweep()
    progress.begin(A, 0.0)
    progress.window(A, OWN, 0, 200, 30.0)
    progress.window(A, OWN, 0, 400, 50.0)
    a = of(progress, A, 50.0)
    assert a.tokens_per_s == pytest.approx(10.0)  # 200 tokens in 20 s; so the training began at 10 s
    # A training takes 100 s; 60 of this one are left, and three more to come.
    assert a.seconds_left == pytest.approx(60 + 300)
    assert of(progress, A, 55.0).seconds_left == pytest.approx(355)
    # One place. B then needs 10 s to start and three trainings; seed 1 five and three with two starts.
    assert progress.view(50.0).seconds_left == pytest.approx(360 + 310 + (10 + 400) + (10 + 300))
    assert progress.view(50.0).tokens_per_s == pytest.approx(10.0)


def test_a_training_that_is_silent_slows_down_and_never_ends_before_it_does() -> None:
    progress = sweep()
    progress.begin(A, 0.0)
    for tokens in (200, 400, 600):
        progress.window(A, OWN, 0, tokens, 10.0 + tokens / 10)
    assert of(progress, A, 70.0).tokens_per_s == pytest.approx(10.0)
    assert of(progress, A, 110.0).tokens_per_s == pytest.approx(10.0)  # one report is late
    # The last 40 s of silence count as one report of 20 s that is to come, and 380 s of a stop.
    assert of(progress, A, 470.0).tokens_per_s == pytest.approx(400 / (40 + 400 - 20))
    for now in (70.0, 110.0, 470.0, 1e5):
        left = of(progress, A, now).seconds_left
        assert left is not None and left >= 300  # three trainings follow


def test_scoring_counts_once_it_was_seen() -> None:
    progress = sweep()
    progress.begin(A, 0.0)
    for tokens in (200, 400, 600, 800, 1000):
        progress.window(A, OWN, 0, tokens, 10.0 + tokens / 10)
    progress.cycle(A, OWN, 0, CycleValues(7, None, 0.2, 4.1), 135.0)  # from 10 to 110 it trains, then it scores
    a = of(progress, A, 135.0)
    assert (a.values.core, a.values.carryover, a.trainings, a.cycle, a.share) == (7, None, 1, 1, 0.0)
    assert a.seconds_left == pytest.approx(3 * 125)
    for tokens in (200, 400, 600, 800, 1000):
        progress.window(A, OWN, 1, tokens, 135.0 + tokens / 10)
    assert of(progress, A, 235.0).share == 1.0
    assert of(progress, A, 235.0).seconds_left == pytest.approx(25 + 2 * 125)
    progress.cycle(A, OWN, 1, CycleValues(9, 0.5, 0.1, 4.0), 260.0)
    a = of(progress, A, 260.0)
    assert (a.cycle, a.values.core, a.values.carryover, a.seconds_left) == (2, 9, 0.5, pytest.approx(250))


def test_cycle_0_of_another_trial_is_waited_for_and_counts_once() -> None:
    progress = sweep()
    progress.begin(A, 0.0)
    assert of(progress, B, 0.0).waits_for == f"cycle 0 of {A}" and of(progress, C, 0.0).waits_for == "a place"
    for tokens in (500, 1000):
        progress.window(A, OWN, 0, tokens, tokens / 10)
    progress.cycle(A, OWN, 0, NOTHING, 100.0)
    assert progress.view(100.0).trainings == 1 and of(progress, B, 100.0).waits_for == "a place"
    progress.begin(B, 100.0)
    progress.cycle(B, OWN, 0, NOTHING, 120.0, found=True)
    assert progress.view(120.0).trainings == 1 and of(progress, B, 120.0).trainings == 1
    # What was found took no time: a training still takes 100 s.
    assert of(progress, B, 120.0).seconds_left == pytest.approx(300)
    # A until 400, B until 420; then seed 1: C 400 s from 400 on; D waits for its cycle 0 until 500, then 300.
    assert progress.view(120.0).seconds_left == pytest.approx(280 + 400)


def test_controls_and_the_end() -> None:
    progress = sweep()
    progress.begin(A, 0.0)
    for cycle in range(3):
        progress.window(A, OWN, cycle, 500, 100.0 * cycle + 50)
        progress.window(A, OWN, cycle, 1000, 100.0 * cycle + 100)
        progress.cycle(A, OWN, cycle, CycleValues(cycle), 100.0 * cycle + 100)
    assert of(progress, A, 300.0).control == "control"
    progress.window(A, "gaussian", 2, 500, 350.0)
    a = of(progress, A, 350.0)
    assert (a.control, a.share, a.tokens_per_s) == ("gaussian", 0.5, pytest.approx(10.0))
    assert a.values.core == 2 and a.seconds_left == pytest.approx(50)
    progress.cycle(A, "gaussian", 2, CycleValues(99), 400.0)
    assert of(progress, A, 400.0).seconds_left is None and of(progress, A, 400.0).values.core == 2
    progress.end(A, "finished")
    view = progress.view(400.0)
    assert [v.state for v in view.trials] == ["finished", "waiting", "waiting", "waiting"]
    assert view.trainings == 4 and view.seconds_left is None
    for name in (B, C, D):
        progress.end(name, "finished")
    assert progress.view(400.0).seconds_left is None


def test_a_chain_has_a_training_in_each_cycle() -> None:
    """By hand: cycles 0, 1, 2, a chain of cycles 1 and 2, of 100 s each."""
    chain = {"cycles": 2, "controls": [], "control_chains": ["gaussian"]}
    progress = sweep(distill=chain)
    assert progress.view(0.0).trainings_in_all == 2 + 4 * 2 + 4 * 2
    progress.begin(A, 0.0)
    for n, (arm, cycle) in enumerate([(OWN, 0), (OWN, 1), (OWN, 2), ("gaussian_chain", 1)]):
        progress.window(A, arm, cycle, 500, 100.0 * n + 50)
        progress.cycle(A, arm, cycle, CycleValues(n), 100.0 * n + 100)
    a = of(progress, A, 400.0)
    assert (a.control, a.cycle, a.values.core) == ("gaussian_chain", 2, 2)
    assert cycle_text(a, 2) == "gaussian_chain 2" and progress.view(400.0).trainings == 4
    progress.window(A, "gaussian_chain", 2, 500, 450.0)
    assert of(progress, A, 450.0).seconds_left == pytest.approx(50)
    progress.cycle(A, "gaussian_chain", 2, CycleValues(9), 500.0)
    assert of(progress, A, 500.0).seconds_left is None and progress.view(500.0).trainings == 5


def test_what_runs_comes_first_and_what_failed_says_why() -> None:
    progress = sweep()
    for name in (A, B, C):
        progress.begin(name, 0.0)
    progress.end(A, "finished")
    progress.end(B, "failed", "it broke")
    shown = progress.view(1.0).trials
    assert [(v.trial.trial_id, v.state) for v in shown] == [
        (C, "running"),
        (B, "failed"),
        (A, "finished"),
        (D, "waiting"),
    ]
    assert shown[1].reason == "it broke"
    progress.retry()
    assert [v.state for v in progress.view(1.0).trials] == ["finished", "waiting", "waiting", "waiting"]


def test_a_training_that_was_taken_up_again_is_no_faster_for_it() -> None:
    """Its first report has the steps of before; the cycles before it are found."""
    progress = sweep()
    progress.begin(A, 0.0)
    progress.report(
        A, TrialReport((), (report(0, cached=True), report(1, cached=True)), "cycle 2, step 70 of 100"), 10.0
    )
    assert of(progress, A, 10.0).trainings == 2
    progress.report(A, TrialReport((window(2, 80),)), 20.0)
    assert of(progress, A, 20.0).tokens_per_s is None and of(progress, A, 20.0).share == 0.8
    progress.report(A, TrialReport((window(2, 85), window(2, 90))), 30.0)
    assert of(progress, A, 30.0).tokens_per_s == pytest.approx(10.0)
    # 100 tokens are left of this one, and the control.
    assert of(progress, A, 30.0).seconds_left == pytest.approx(10 + 100)


def test_a_resumed_sweep_knows_what_it_has_and_nothing_of_its_speed() -> None:
    progress = sweep()
    progress.begin(A, 0.0)
    for tokens in (500, 1000):
        progress.window(A, OWN, 0, tokens, tokens / 10)
    progress.cycle(A, OWN, 0, CycleValues(5), 100.0)
    progress.stop()
    a = of(progress, A, 200.0)
    assert (a.state, a.cycle, a.trainings, a.values.core, a.seconds_left) == ("waiting", 0, 1, 5, None)
    progress.begin(A, 1000.0)
    progress.cycle(A, OWN, 0, CycleValues(5), 1010.0, found=True)  # it is reported again
    assert progress.view(1010.0).seconds_left is None and progress.view(1010.0).trainings == 1
    progress.window(A, OWN, 1, 500, 1110.0)
    assert of(progress, A, 1110.0).tokens_per_s == pytest.approx(5.0)
    assert of(progress, A, 1110.0).seconds_left == pytest.approx(100 + 2 * 200)


def test_a_given_sae_as_cycle_0_is_no_training(tmp_path: Any) -> None:
    progress = sweep(distill={"cycles": 2, "controls": [], "initial_sae": str(tmp_path)})
    assert progress.view(0.0).trainings_in_all == 8
    progress.begin(A, 0.0)
    progress.cycle(A, OWN, 0, CycleValues(3), 5.0)
    assert of(progress, A, 5.0).trainings == 0 and of(progress, A, 5.0).values.core == 3
    assert of(progress, B, 5.0).waits_for == "a place"


def test_two_workers_of_a_lost_trial_begin_anew() -> None:
    progress = sweep()
    progress.begin(A, 0.0)
    for tokens in (200, 400, 600):
        progress.window(A, OWN, 0, tokens, tokens / 10)
    progress.window(A, OWN, 0, 400, 500.0)  # from its checkpoint
    assert of(progress, A, 500.0).tokens_per_s is None and of(progress, A, 500.0).share == 0.4


def window(cycle: int, step: int) -> WindowReport:
    return WindowReport(cycle, OWN, step, 0, {})


def report(cycle: int, *, cached: bool) -> CycleReport:
    none: Any = None
    return CycleReport(
        cycle, OWN, "", 0, 0, 4, 8, none, none, none, none, none, none, none, 1000, 1.0, 100.0, cached, {"fvu": 0.5}
    )
