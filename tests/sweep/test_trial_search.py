"""Which trials of a sweep Ray Tune begins when: a real Tuner runs trials that only say when they began."""

import json
import time
from pathlib import Path
from typing import Any

from dmsae_ray.config.environment import ON_HEAD
from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.distill.core import empty_core
from dmsae_ray.distill.reports import DISTILLED
from dmsae_ray.plan.trials import expand
from dmsae_ray.results.reports import TrialReport, failure_metrics
from dmsae_ray.sweep.trial_search import TrialSearch
from tests.report.summaries import make_cycle

GRID = {
    "name": "x",
    "model": {"name": "tiny", "layer": 1},
    "sweep": {"k": [4], "coverage": [0.3, 0.5], "seeds": [0, 1]},
}
FIRST, SECOND = ["k4-tau0.3-seed0", "k4-tau0.3-seed1"], ["k4-tau0.5-seed0", "k4-tau0.5-seed1"]


def run(ray: Any, folder: Path, search: TrialSearch, at_once: int, failing: str = "") -> dict[str, dict[str, float]]:
    """When each trial that was begun began, had its cycle 0 and ended, as times."""
    none = empty_core(8)
    report = make_cycle(0, DISTILLED, none, none, 0.3, (0.0, 4.0))

    def trial(config: dict[str, Any]) -> None:
        seen = {"begin": time.time()}
        time.sleep(0.5)
        if config["trial_id"] == failing:
            ray.tune.report(failure_metrics("no reason"))
        else:
            seen["cycle 0"] = time.time()
            ray.tune.report(TrialReport(cycles=(report,)).to_metrics())
            time.sleep(0.5)
        seen["end"] = time.time()
        (folder / f"{config['trial_id']}.json").write_text(json.dumps(seen))

    ray.tune.Tuner(
        ray.tune.with_resources(trial, {"CPU": 0, **ON_HEAD}),
        tune_config=ray.tune.TuneConfig(
            search_alg=search, num_samples=len(search.trials), max_concurrent_trials=at_once, reuse_actors=True
        ),
        run_config=ray.tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def search_of(places: int, *, shares: bool = True) -> TrialSearch:
    return TrialSearch(expand(parse_experiment(GRID)), shares, places)


def most_at_once(times: dict[str, dict[str, float]]) -> int:
    return max(sum(other["begin"] <= one["begin"] < other["end"] for other in times.values()) for one in times.values())


def test_a_trial_begins_when_the_cycle_0_that_it_shares_is_there(ray_cluster: Any, tmp_path: Path) -> None:
    times = run(ray_cluster, tmp_path, search_of(4), at_once=4)
    assert set(times) == {*FIRST, *SECOND}
    for first, second in zip(FIRST, SECOND, strict=True):
        assert times[second]["begin"] > times[first]["cycle 0"]
    assert abs(times[FIRST[0]]["begin"] - times[FIRST[1]]["begin"]) < times[FIRST[0]]["cycle 0"]


def test_no_more_run_than_there_are_places(ray_cluster: Any, tmp_path: Path) -> None:
    search = search_of(1, shares=False)
    assert most_at_once(run(ray_cluster, tmp_path, search, at_once=4)) == 1


def test_a_trial_that_fails_lets_another_train_its_cycle_0(ray_cluster: Any, tmp_path: Path) -> None:
    times = run(ray_cluster, tmp_path, search_of(4), at_once=4, failing=FIRST[0])
    assert set(times) == {*FIRST, *SECOND}
    assert times[SECOND[0]]["begin"] > times[FIRST[0]]["begin"] + 0.5


def test_places_may_become_more_and_a_closed_search_begins_nothing() -> None:
    search = search_of(1)
    config = search.suggest("a")
    assert config["trial_id"] == FIRST[0] and config["params"]["coverage"] == 0.3
    assert search.suggest("b") is None
    search.widen(3)
    assert search.suggest("b")["trial_id"] == FIRST[1] and search.suggest("c") is None
    search.on_trial_complete("a", error=True)
    assert search.suggest("c")["trial_id"] == SECOND[0]
    search.close()
    assert search.suggest("d") == "FINISHED"
