"""What is logged, and how it is called: the runs of a sweep, their parameters and their metrics.

A trial of cycles is a run, as is each of its controls and chains. Their metrics have the cycle as the step, so that the
value of the last cycle is the one that tables show. Each training of a cycle, of a trial or of a chain, is a run below
theirs, with the tokens of this training as the step, so that cycles lie over each other. A control or a transfer is one
training: its curves are in its own run.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dmsae_ray.distill import DISTILLED, CycleReport, WindowReport, is_chain
from dmsae_ray.plan import Params, Trial
from dmsae_ray.results import TrialResult

SETTING, CYCLE, CURVE = "setting", "cycle", "train"
"""The groups of metrics: numbers of a setting, of a finished cycle, of a window of training steps."""

_CYCLE_WORD = "cycle "

_OF_CYCLE = ("carryover", "chance", "retest", "core_share", "new")
_OF_METRICS = {
    "fvu": "fvu",
    "loss_recovered": "loss_recovered",
    "loss_recovered_from_mean": "loss_recovered_from_mean",
    "l0": "l0",
    "l0_core": "l0_core",
    "l0_non_core": "l0_non_core",
    "dead_fraction": "dead_share",
    "core_dead_fraction": "core_dead_share",
    "core_frequency_median": "core_frequency_median",
    "core_frequency_max": "core_frequency_max",
}
_OF_WINDOW = {
    "loss": "loss",
    "aux_loss": "aux_loss",
    "l0_core": "l0_core",
    "l0_non_core": "l0_non_core",
    "dead": "dead_latents",
    "grad_norm": "grad_norm",
    "lr": "lr",
    "threshold": "threshold",
}


def metric_names(controls: Collection[str] = (), chains: Collection[str] = ()) -> list[str]:
    """Return the names of all metrics of a trial, its controls, its chains and its trainings."""
    return [
        *("k", "coverage", "seed", "core_size", "collapsed", "distilled_size", "margin_chance"),
        *(f"margin_{arm}" for arm in controls),
        *(("survived", *(f"survived_{arm}" for arm in chains)) if chains else ()),
        *_OF_CYCLE,
        *_OF_METRICS.values(),
        *("tokens", "flops", "seconds"),
        *(f"{CURVE}/{name}" for name in (*_OF_WINDOW.values(), "mse")),
    ]


@dataclass(frozen=True)
class RunName:
    """The name of a run below the sweep's.

    Attributes:
        trial: Name of the trial.
        arm: The control that it is of; empty for the trial itself.
        cycle: The training that it is of; None for the trial or control itself.
    """

    trial: str
    arm: str = ""
    cycle: int | None = None

    def __str__(self) -> str:
        parts = [self.trial, self.arm, "" if self.cycle is None else f"{_CYCLE_WORD}{self.cycle}"]
        return "/".join(part for part in parts if part)

    @property
    def parent(self) -> str | None:
        """The run above it; None if that is the sweep's."""
        return None if self.cycle is None else str(RunName(self.trial, self.arm))

    @property
    def shown(self) -> str:
        """What MLflow shows."""
        return str(self).replace("/", " ")

    @classmethod
    def of(cls, text: str) -> "RunName":
        """Return the name that `text` is the string of."""
        trial, *rest = text.split("/")
        cycle = next((int(part.removeprefix(_CYCLE_WORD)) for part in rest if part.startswith(_CYCLE_WORD)), None)
        return cls(trial, next((part for part in rest if not part.startswith(_CYCLE_WORD)), ""), cycle)


def own_arm(params: Params) -> str:
    """Return the arm of a trial itself; every other is one of its controls."""
    return str(params.get("arm", DISTILLED))


def curve_run(trial_id: str, params: Params, window: WindowReport) -> RunName:
    """Return the run that has the curves of a training."""
    if is_chain(window.arm):
        return RunName(trial_id, window.arm, window.cycle)
    if window.arm != own_arm(params):
        return RunName(trial_id, window.arm)
    return RunName(trial_id) if "arm" in params else RunName(trial_id, cycle=window.cycle)


def differing(trials: Sequence[Trial]) -> frozenset[str]:
    """Return the names of the parameters that are not the same in all trials; some may lack one."""
    params = [trial.params() for trial in trials]
    names = {name for own in params for name in own}
    return frozenset(name for name in names if len({own.get(name) for own in params}) > 1)


def run_params(run: RunName, params: Params, shown: Collection[str]) -> Params:
    """Return the parameters of a run: k, coverage, seed, arm, further axes, `shown`; of a training its cycle too."""
    always = ("k", "coverage", "seed")
    own = {name: value for name, value in params.items() if name in shown or name in always or "." in name}
    return {**own, "arm": run.arm or own_arm(params), **({} if run.cycle is None else {"cycle": run.cycle})}


def setting_numbers(params: Params) -> dict[str, float]:
    """Return the numbers by which one filters and plots: MLflow compares parameters as text only."""
    axes = [name for name, value in params.items() if "." in name and type(value) in (int, float)]
    return {name: float(params[name]) for name in ("k", "coverage", "seed", *axes) if name in params}


def cycle_numbers(report: CycleReport, before: Sequence[CycleReport] = ()) -> dict[str, float]:
    """Return what is logged of a finished cycle.

    Args:
        report: The cycle.
        before: The cycles of the same arm before it; tokens, FLOP and seconds are sums up to here.
    """
    known: dict[str, float | None] = {name: getattr(report, name) for name in _OF_CYCLE}
    known["core_size"] = report.n_core
    known["collapsed"] = float(report.collapsed is not None)
    if report.carryover is not None and report.chance is not None:
        known["margin_chance"] = report.carryover - report.chance
    known |= {name: report.metrics.get(measured) for measured, name in _OF_METRICS.items()}
    for name in ("tokens", "flops", "seconds"):
        known[name] = float(sum(getattr(r, name) for r in (*before, report)))
    return {name: float(value) for name, value in known.items() if value is not None}


def window_numbers(window: WindowReport) -> dict[str, float]:
    """Return what is logged of a window of training steps; `mse` is that of the longest prefix, the whole SAE."""
    stats: Mapping[str, float] = window.stats
    found = {f"{CURVE}/{name}": stats[measured] for measured, name in _OF_WINDOW.items() if measured in stats}
    prefixes = sorted((int(n.rpartition("_")[2]) for n in stats if n.startswith("prefix_mse_")), reverse=True)
    if prefixes:
        found[f"{CURVE}/mse"] = stats[f"prefix_mse_{prefixes[0]}"]
    return found


def final_numbers(result: TrialResult) -> dict[str, float]:
    """Return what is known only at the end of a trial: the size of C*, and how far it is above each control.

    Where controls ran through all cycles, 'survived' is the share of C_0 that is left at the end, and
    'survived_<control>' that of the control.
    """
    last = result.last.carryover
    values: dict[str, float | None] = {"distilled_size": result.distilled_size}
    of_all = {f"_{name}": chain.survivors for name, chain in result.chains.items() if not chain.collapsed}
    of_all |= {"": result.survivors} if result.chains else {}
    values |= {f"survived{name}": alive[-1] / alive[0] for name, alive in of_all.items() if alive and alive[0]}
    for arm, report in result.controls.items():
        if last is not None and report.carryover is not None:
            values[f"margin_{arm}"] = last - report.carryover
    return {name: float(value) for name, value in values.items() if value is not None}
