"""Which parameters tell the trials of a sweep apart."""

from dmsae_ray.plan.trials import TransferSetting, Trial
from dmsae_ray.tracking.names import RunName, differing, run_params


def test_a_budget_that_some_trials_do_not_name_tells_them_apart() -> None:
    one, nine = (Trial(TransferSetting(40, "baseline", "dense", budget), 0, 0) for budget in (1.0, 9.0))
    assert differing([one, nine]) == {"budget"} and differing([one, one]) == frozenset()
    shown = run_params(RunName(nine.trial_id), nine.params(), differing([one, nine]))
    assert shown == {"k": 40, "seed": 0, "budget": 9.0, "arm": "baseline"}
    assert "budget" not in run_params(RunName(one.trial_id), one.params(), differing([one, nine]))
