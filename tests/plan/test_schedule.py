"""Hours and dollars of a plan, against cases worked out by hand; the order in which trials begin."""

from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import Experiment, load_experiment, parse_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.bill import bill, usage
from dmsae_ray.plan.capacity import Bundle, Cluster, NodeKind, cluster_of_yaml, priced
from dmsae_ray.plan.plan import Plan, plan_experiment
from dmsae_ray.plan.queue import TrialQueue
from dmsae_ray.plan.schedule import schedule, schedule_on
from dmsae_ray.plan.speed import Rate
from dmsae_ray.plan.trials import expand

ROOT = Path(__file__).parents[2]


def experiment(**sections: Any) -> Experiment:
    return parse_experiment({"name": "test", "model": {"name": "tiny", "layer": 1}, **sections})


def plan_of(e: Experiment, hours: float = 1.0, harvest: float = 0.0) -> Plan:
    """The plan of an experiment, with a given time for one training."""
    plan = plan_experiment(e)
    time = plan.training
    object.__setattr__(time, "computing", hours)
    object.__setattr__(time, "reading", 0.0)
    object.__setattr__(time, "evaluating", 0.0)
    object.__setattr__(plan, "harvest_hours", harvest)
    return plan


def grid(**sweep: Any) -> Experiment:
    return experiment(distill={"cycles": 2, "controls": []}, sweep={"k": [4], "coverage": [0.5], **sweep})


def test_trials_that_share_nothing_fill_their_places() -> None:
    done = schedule(plan_of(grid(seeds=[0, 1, 2]), hours=1.0, harvest=0.5), at_once=2)
    # Three trials of three trainings in two places: two waves, behind the harvest.
    assert (done.total, done.held, done.service, done.at_once) == (6.5, 9.0, 6.0, 2)


def test_no_trial_holds_a_place_while_another_trains_its_cycle_0() -> None:
    plan = plan_of(grid(coverage=[0.3, 0.5, 0.7], seeds=[0]))
    # The first takes 3 h; the others begin after 1 h and have 2 trainings each, in two places: 1 to 3 and 3 to 5.
    assert schedule(plan, at_once=2).total == 5.0
    three = schedule(plan, at_once=3)
    assert (three.total, three.held) == (3.0, 3.0 + 2.0 + 2.0)
    assert three.held == plan.trainings * 1.0


def test_trials_beside_a_harvest_do_not_end_before_it() -> None:
    plan = plan_of(grid(seeds=[0, 1]), hours=1.0, harvest=5.0)
    alone = schedule(plan, at_once=2)
    assert (alone.total, alone.held) == (8.0, 6.0)
    beside = schedule(plan, at_once=2, beside=1)
    # One begins at 0, its cycle 0 ends with the harvest at 5, the others take 2 h more; the second runs from 5 to 8.
    assert (beside.total, beside.held) == (8.0, 7.0 + 3.0)


def test_the_queue_gives_way_and_survives_a_trial_that_fails_in_cycle_0() -> None:
    trials = expand(grid(coverage=[0.3, 0.5], seeds=[0, 1]))
    names = [trial.trial_id for trial in trials]
    assert names == ["k4-tau0.3-seed0", "k4-tau0.5-seed0", "k4-tau0.3-seed1", "k4-tau0.5-seed1"]
    queue = TrialQueue(trials, shares_cycle_0=True)
    assert [queue.next(), queue.next(), queue.next()] == [trials[0], trials[2], None]
    queue.trial_ended(trials[0])  # it failed: its cycle 0 is not there, another one trains it
    assert queue.next() is trials[1] and queue.next() is None
    queue.cycle_0_done(trials[2])
    assert queue.next() is trials[3] and queue.is_trained(trials[3]) and not queue.is_trained(trials[1])
    assert (queue.waiting, queue.running) == (0, 3)
    free = TrialQueue(trials, shares_cycle_0=False)
    assert [free.next() for _ in trials] == trials


def test_figure_6_by_hand() -> None:
    """Six trainings a trial, 18 trials, ten GPUs, 1.4e14 FLOP/s: the figures of a person with a pencil."""
    e = load_experiment(ROOT / "sweeps" / "figure6_sparsity.yaml", ["output=s3://bucket/dmsae"])
    plan, cluster = plan_experiment(e), cluster_of_yaml(ROOT / "cluster.yaml")
    one = 12 * 2304 * 65_536 * 5e8 / 1.4e14 / 3600  # hours of the steps alone; scoring adds a little
    assert plan.training.computing == pytest.approx(one, rel=0.01)
    assert plan.training.bytes_per_second == pytest.approx((2 * 2304 + 4) * 5e8 / (one * 3600), rel=0.01)
    assert not plan.training.limited_by_reading
    hours = schedule_on(plan, cluster)
    # Two waves, of ten and of eight; each trial trains cycles 0 to 4 and a control.
    assert hours.at_once == 10
    assert hours.total == pytest.approx(2 * 6 * one, rel=0.04)
    used = usage(plan, hours)
    # The language model has room on one of the ten GPUs; that GPU is held as long as trials run.
    assert used.workers == pytest.approx(0.9 * 18 * 6 * one, rel=0.03)
    assert used.service == pytest.approx(hours.total, rel=0.02)
    assert used.total == pytest.approx(197, rel=0.04)  # what a person with a pencil calls the plan
    assert used.harvest == pytest.approx(plan.flops.harvest / 1.4e14 / 3600)


def test_a_bill_by_hand() -> None:
    e = experiment(
        distill={"cycles": 2, "controls": []},
        sweep={"k": [4], "coverage": [0.5], "seeds": [0, 1, 2]},
        resources={
            "gpus_per_worker": 1,
            "cpus_per_worker": 2,
            "gpus_per_model_actor": 0.5,
            "cpus_per_model_actor": 1,
            "model_actors_max": 2,
        },
    )
    kinds = (NodeKind("head", 4, 0, 1, 1, dollars=0.1), NodeKind("gpu", 4, 1, 0, 8, dollars=2.0))
    cluster = Cluster("it", kinds)
    plan = plan_of(e, hours=1.0, harvest=2.0)
    hours = schedule(plan, at_once=2)
    assert (hours.total, hours.held) == (8.0, 9.0)
    found = bill(plan, hours, cluster)
    # The head to the end; one GPU for both actors of the harvest, one for the language model, one for each worker.
    assert found.hours == pytest.approx({"head": 8.0, "gpu": 2.0 + 6.0 + 9.0})
    assert found.dollars == pytest.approx(8 * 0.1 + 17 * 2.0)
    used = usage(plan, hours)
    assert (used.workers, used.service, used.harvest) == pytest.approx((9.0, 6.0, 2.0))
    unpriced = bill(plan, hours, Cluster("it", (kinds[0], NodeKind("gpu", 4, 1, 0, 8))))
    assert unpriced.dollars is None and unpriced.unpriced == ("gpu",)


def test_what_limits_a_training() -> None:
    slow, fast = (
        plan_experiment(experiment(output="s3://bucket/x"), rate=Rate(flops, "CPU core", "")).training
        for flops in (1e9, 1e18)
    )
    assert not slow.limited_by_reading and slow.hours == slow.computing + slow.evaluating
    assert fast.limited_by_reading and fast.hours == fast.reading + fast.evaluating


def test_nodes_are_started_only_where_running_ones_have_no_room() -> None:
    cluster = Cluster("it", (NodeKind("head", 4, 0, 1, 1), NodeKind("big", 8, 1, 0, 2)), most_nodes=3)
    assert cluster.started([Bundle("small", 2)]) == {"head": 0, "big": 0}
    assert cluster.started([Bundle("small", 2, count=3), Bundle("large", 4, 1)]) == {"head": 0, "big": 1}
    assert cluster.unplaced([Bundle("large", 4, 1, count=3)]) is not None


def test_prices_that_cannot_be() -> None:
    cluster = cluster_of_yaml(ROOT / "cluster.yaml")
    assert all(kind.dollars is not None and kind.dollars > 0 for kind in cluster.kinds)
    with pytest.raises(ConfigError, match=r"there: a price is given for 'gpu'; node types are head, gpu-spot, "):
        priced(cluster, {"gpu": 1.0}, "there")
    for wrong in (-1, "3", True, float("nan"), None):
        with pytest.raises(ConfigError, match=r"the price of 'head' is .*; it must be dollars an hour, at least 0"):
            priced(cluster, {"head": wrong}, "there")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--price", "gpu-spot=1"], "--price is given without --cluster"),
        (["--cluster", "cluster.yaml", "--price", "gpu-spot"], "--price is 'gpu-spot'; it must be a node type and"),
        (["--cluster", "cluster.yaml", "--price", "gpu-spot=nan"], "--price: the price of 'gpu-spot' is nan"),
        (["--cluster", "cluster.yaml", "--set", "resources.gpus_per_worker=40"], "together at most"),
    ],
)
def test_the_command_refuses_in_one_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", "sweeps/figure6_sparsity.yaml", *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and "figure6" not in shown.out


def test_the_command_says_hours_and_dollars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    command = ["plan", "sweeps/figure5_coverage.yaml", "--set", "output=s3://bucket/x", "--cluster", "cluster.yaml"]
    assert main([*command, "--price", "gpu-spot=0", "--price", "head=10"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "each needs 356 MB/s; assumed: 960 MB/s from a bucket" in lines["training"]
    hours = float(lines["hours"].split()[1])
    assert float(lines["dollars"].split()[1].rstrip(":")) == pytest.approx(10 * hours, abs=1)  # the head's
    assert "10 at once" in lines["hours"] and "GPU-hours" in lines
