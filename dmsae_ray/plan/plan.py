"""The plan of an experiment: what it would do, what it costs and which resources it needs at once.

It is arithmetic on the config; nothing is started or downloaded, and of a model outside the table of known ones the
configuration is tried without weights. The module `fit` says whether a cluster can hold the experiment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from dmsae_ray.config import Experiment, of_training
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.capacity import Bundle
from dmsae_ray.plan.cost import Flops, Storage, experiment_flops, experiment_storage, window_bytes
from dmsae_ray.plan.model_size import KNOWN, ModelSize, config_file, model_size
from dmsae_ray.plan.speed import Rate, rate_of
from dmsae_ray.plan.timing import TrainingTime, harvest_hours, training_time
from dmsae_ray.plan.trials import TransferSetting, Trial, expand, times_the_tokens
from dmsae_ray.plan.words import bytes_text, count_text, hours_text, many
from dmsae_ray.store import unpinned

READER = Bundle("tokenising task", 1.0)
"""The one tokenising task that a harvest needs at least; more run where there is room."""


@dataclass(frozen=True)
class Plan:
    """What an experiment would do.

    FLOPs and bytes are upper estimates: they assume that nothing is reused from an earlier run. Baselines that will be
    matched to measured numbers are in none of them: a note says how many may come.

    Attributes:
        name: Name of the experiment.
        taps: Each language model and block whose output SAEs read.
        trials: All trials of the grid.
        trainings: SAE trainings; a training that several trials share counts once.
        trainings_unshared: SAE trainings if every trial trained its own cycle 0.
        controls: Those of `trainings` that train controls.
        steps: Steps of one training, but for trials of another budget.
        batch_size: Tokens in a step.
        corpus_tokens: Training tokens of the corpus.
        attribution_tokens: Tokens with gradients, for the attribution scores.
        eval_tokens: Tokens for evaluation.
        flops: FLOPs, by what they are spent on.
        storage: Bytes, by what they hold.
        rate: The assumed speed of computing.
        training: The time of one training, at the most costly point of further axes.
        harvest_hours: Hours of the harvest on all its language-model actors.
        trainings_of_trial: Trainings of one trial, its cycle 0 included.
        shares_cycle_0: Whether trials that differ only in coverage share a training.
        at_once: Trials that may run at once: max_concurrent_trials if given, else all. `fit.trials_at_once` says how
            many fit.
        harvest_needs: Resources needed at once to make activations.
        service_needs: Resources in use for as long as trials run.
        trial_needs: Resources that one trial needs at once.
        pool_needs: Resources that the harvest holds at its largest, once the tokens are written; empty where there is
            no long harvest.
        notes: What a person should know before paying, one sentence each.
    """

    name: str
    taps: tuple[tuple[str, int], ...]
    trials: tuple[Trial, ...]
    trainings: int
    trainings_unshared: int
    controls: int
    steps: int
    batch_size: int
    corpus_tokens: int
    attribution_tokens: int
    eval_tokens: int
    flops: Flops
    storage: Storage
    rate: Rate
    training: TrainingTime
    harvest_hours: float
    trainings_of_trial: int
    shares_cycle_0: bool
    at_once: int
    harvest_needs: tuple[Bundle, ...]
    service_needs: tuple[Bundle, ...]
    trial_needs: tuple[Bundle, ...]
    pool_needs: tuple[Bundle, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def training_tokens(self) -> int:
        """Tokens that all SAE trainings read together."""
        return round(self.lengths * self.steps * self.batch_size)

    @property
    def lengths(self) -> float:
        """The same as a multiple of recipe.tokens."""
        return lengths(self.trials, self.trainings_of_trial, self.shares_cycle_0)

    @property
    def unit_hours(self) -> float:
        """Hours of one GPU or CPU core at the assumed rate."""
        return self.flops.total / self.rate.flops_per_second / 3600

    def needs(self, count: int) -> tuple[Bundle, ...]:
        """Return the resources that the sweep needs at once while `count` trials run."""
        of_trials = [Bundle(b.what, b.cpus, b.gpus, b.count * count) for b in self.trial_needs]
        return (*self.service_needs, *of_trials)

    def beside_harvest(self, count: int) -> tuple[Bundle, ...]:
        """Return the resources needed while the harvest goes on and `count` trials run."""
        return (*self.pool_needs, *self.needs(count))

    def params(self) -> dict[str, int | float]:
        """Return the numbers that the tracking server lists as parameters of the sweep."""
        return {
            "trials": len(self.trials),
            "planned_trainings": self.trainings,
            "planned_training_tokens": self.training_tokens,
            "planned_flops": self.flops.total,
            "planned_bytes": self.storage.total,
        }

    def line(self) -> str:
        """Return the plan in one line."""
        saved = self.trainings_unshared - self.trainings
        shared = f" ({saved} saved by sharing cycle 0)" if saved else ""
        return (
            f"{many(len(self.trials), 'trial')}, {many(self.trainings, 'SAE training')}{shared}, "
            f"{count_text(self.training_tokens)} training tokens, {self.flops.total:.2g} FLOP, "
            f"{bytes_text(self.storage.total)}, about {hours_text(self.unit_hours)} of one {self.rate.unit}"
        )


def plan_experiment(experiment: Experiment, *, rate: Rate | None = None) -> Plan:
    """Expand the grid and add up its costs; nothing is started or downloaded.

    Of a sweep with several stores, its parts one after the other.

    Args:
        experiment: The experiment.
        rate: The assumed speed of computing; by default that of `speed.rate_of`.

    Raises:
        ConfigError: The sizes of the model are not known, model.layer is not one of its blocks, or a model whose
            configuration is on this machine cannot be tapped there.
    """
    parts = experiment.parts()
    if len(parts) > 1:
        return _together([plan_experiment(part, rate=rate) for part in parts], parts)
    (experiment,) = parts
    size = model_size(experiment.model.name, experiment.model.revision)
    if experiment.model.layer >= size.layers:
        raise ConfigError(
            f"model.layer is {experiment.model.layer}; '{experiment.model.name}' has blocks 0 to {size.layers - 1}"
        )
    _check_model(experiment)
    trials = tuple(expand(experiment))
    trainings, unshared, controls = count_trainings(experiment, trials)
    resources = experiment.resources
    at_once = min(len(trials), resources.max_concurrent_trials or len(trials))
    flops = _sweep_flops(experiment, size, trials)
    whole = experiment.recipe.whole_tokens
    points = [(at, at.recipe.whole_tokens / whole) for at in map(experiment.at, experiment.points)]
    slowest, length = max(points, key=lambda point: experiment_flops(point[0], size, 1).training / point[1])
    largest = max(map(experiment.at, experiment.points), key=lambda at: at.sae.n_latents)
    smaller = [at.sae.n_latents / largest.sae.n_latents for at in map(experiment.at, experiment.points)]
    as_largest = round(trainings * sum(smaller) / len(smaller))
    rate = rate or rate_of(experiment)
    return Plan(
        name=experiment.name,
        taps=((experiment.model.name, experiment.model.layer),),
        trials=trials,
        trainings=trainings,
        trainings_unshared=unshared,
        controls=controls,
        steps=experiment.recipe.steps,
        batch_size=experiment.recipe.batch_size,
        corpus_tokens=experiment.corpus.tokens,
        attribution_tokens=experiment.corpus.attribution_tokens,
        eval_tokens=experiment.corpus.eval_tokens,
        flops=flops,
        storage=experiment_storage(largest, size, as_largest, at_once),
        rate=rate,
        training=training_time(slowest, size, experiment_flops(slowest, size, 1), rate).of_length(1 / length),
        harvest_hours=harvest_hours(experiment, flops, rate),
        trainings_of_trial=unshared // len(trials),
        shares_cycle_0=shares_cycle_0(experiment),
        at_once=at_once,
        notes=(
            *unpinned(experiment),
            *_stream_notes(experiment, size),
            *_budget_notes(experiment),
            *_matched_notes(experiment, size, trials, rate),
        ),
        **_needs(experiment),
    )


def _together(plans: Sequence[Plan], parts: Sequence[Experiment]) -> Plan:
    """Return the plan of parts that run one after the other; each has a store of its own."""

    def total(name: str) -> Any:
        return sum(getattr(plan, name) for plan in plans)

    stores = "; ".join(part.store_label for part in parts)
    notes = [f"the sweep has {len(plans)} stores, made and used one after the other: {stores}"]
    return replace(
        max(plans, key=lambda plan: plan.training.hours),
        taps=tuple(dict.fromkeys(tap for plan in plans for tap in plan.taps)),
        trials=tuple(trial for plan in plans for trial in plan.trials),
        **{name: total(name) for name in ("trainings", "trainings_unshared", "controls", "harvest_hours")},
        **{name: total(name) for name in ("corpus_tokens", "attribution_tokens", "eval_tokens")},
        flops=Flops(*(sum(getattr(plan.flops, name.name) for plan in plans) for name in fields(Flops))),
        storage=Storage(
            sum(plan.storage.activations for plan in plans),
            sum(plan.storage.cycles for plan in plans),
            max(plan.storage.checkpoints for plan in plans),
        ),
        at_once=max(plan.at_once for plan in plans),
        notes=tuple(dict.fromkeys([*notes, *(note for plan in plans for note in plan.notes)])),
    )


def _check_model(experiment: Experiment) -> None:
    """Check that the model can be tapped, if its configuration is on this machine; it takes seconds, and torch.

    Raises:
        ConfigError: It is not supported, or model.layer is not one of its blocks.
    """
    model = experiment.model
    file = None if model.name in KNOWN else config_file(model.name, model.revision)
    if file is not None:
        from dmsae_ray.lm import check_tap

        check_tap(str(file.parent), model.layer, model.dtype, attention=model.attention, name=model.name)


def _stream_notes(experiment: Experiment, size: ModelSize) -> tuple[str, ...]:
    if experiment.activations.mode != "stream":
        return ()
    held = bytes_text(2 * window_bytes(experiment, size))
    return (
        f"a trial's stream holds up to {held} in Ray's object store (two windows), or spills what that has no room for",
    )


def _budget_notes(experiment: Experiment) -> tuple[str, ...]:
    transfer = experiment.transfer
    if transfer is None or "baseline" not in transfer.arms:
        return ()
    most = max(transfer.baseline_budgets)
    points = map(experiment.at, experiment.points)
    tokens, corpus = max(((round(most * at.recipe.tokens), at.corpus) for at in points), key=lambda p: p[0])
    if most == 1 or tokens <= corpus.tokens:
        return ()
    return (
        f"baselines of {times_the_tokens(most)} read {count_text(tokens)} of a corpus.tokens of "
        f"{count_text(corpus.tokens)}: every row about {tokens / corpus.tokens:.3g} times",
    )


def _matched_notes(experiment: Experiment, size: ModelSize, trials: Sequence[Trial], rate: Rate) -> tuple[str, ...]:
    """Say how many baselines may come when the L0 of the others is known.

    At most one for each SAE around a core; with further axes, at each point that trains other baselines.
    """
    transfer = experiment.transfer
    if transfer is None or not transfer.matches_l0:
        return ()
    around_a_core = [t for t in trials if isinstance(t.setting, TransferSetting) and t.setting.arm != "baseline"]
    points = [experiment.at(axes) for axes in dict.fromkeys(map(of_training, experiment.points))]
    each = len(around_a_core) * len(transfer.baseline_budgets)
    times = len(around_a_core) * sum(transfer.baseline_budgets)
    flops = [experiment_flops(at, size, each, times) for at in points]
    spent = sum(one.total - one.harvest for one in flops)
    tokens = sum(times * at.recipe.steps * at.recipe.batch_size for at in points)
    return (
        f"up to {many(len(points) * each, 'further baseline')} will be trained when all these have finished, at the k "
        f"that match the L0 they measure (transfer.baseline_k): {count_text(tokens)} training tokens, "
        f"{spent:.2g} FLOP, about {hours_text(spent / rate.flops_per_second / 3600)} of one {rate.unit}",
    )


def lengths(trials: Sequence[Trial], trainings_of_trial: int, shares_cycle_0: bool) -> float:
    """Return the tokens of all trainings together, as a multiple of recipe.tokens; a shared cycle 0 counts once."""
    shared = {trial.cycle_0: trial.budget for trial in trials} if shares_cycle_0 else {}
    return (trainings_of_trial - shares_cycle_0) * sum(trial.budget for trial in trials) + sum(shared.values())


def shares_cycle_0(experiment: Experiment) -> bool:
    """Whether trials have a cycle 0 that is trained, which others may share."""
    return experiment.transfer is None and experiment.distill.initial_sae is None


def count_trainings(experiment: Experiment, trials: Sequence[Trial]) -> tuple[int, int, int]:
    """Count the SAE trainings of the trials if none collapses.

    Trials that differ only in what is selected have the same cycle 0. Their later cycles differ, as the cores do.

    Returns:
        Distinct trainings, trainings if nothing were shared, and trainings of controls.
    """
    if experiment.transfer is not None:
        return len(trials), len(trials), 0
    distill = experiment.distill
    controls = len(trials) * (len(distill.controls) + distill.cycles * len(distill.control_chains))
    later = len(trials) * distill.cycles + controls
    if not shares_cycle_0(experiment):
        return later, later, controls
    first = {trial.cycle_0 for trial in trials}
    return later + len(first), later + len(trials), controls


def _sweep_flops(experiment: Experiment, size: ModelSize, trials: Sequence[Trial]) -> Flops:
    """Return the FLOPs of all trials; a cycle 0 that points of further axes share counts where it comes first."""
    parts, known = [], set[object]()
    for axes in dict.fromkeys(trial.setting.axes for trial in trials):
        own, at = [trial for trial in trials if trial.setting.axes == axes], experiment.at(axes)
        trainings, _, _ = count_trainings(at, own)
        if shares_cycle_0(at):
            first = {trial.cycle_0 for trial in own}
            trainings -= len(first & known)
            known |= first
        # Of what this point calls recipe.tokens; a transfer is one training.
        times = trainings if at.transfer is None else sum(trial.budget / trial.length for trial in own)
        parts.append(experiment_flops(at, size, trainings, times))
    return Flops(
        parts[0].harvest,
        training=sum(part.training for part in parts),
        evaluation=sum(part.evaluation for part in parts),
        streaming=sum(part.streaming for part in parts),
    )


def _needs(experiment: Experiment) -> dict[str, tuple[Bundle, ...]]:
    r = experiment.resources
    pool = (Bundle("language-model actor", r.cpus_per_model_actor, r.gpus_per_model_actor, r.model_actors_max),)
    stream = (Bundle("its language-model actor", r.cpus_per_model_actor, r.gpus_per_model_actor, r.model_actors_min),)
    streams = experiment.activations.mode == "stream"
    return {
        "pool_needs": () if streams else pool,
        "harvest_needs": (
            Bundle("language-model actor", r.cpus_per_model_actor, r.gpus_per_model_actor, r.model_actors_min),
            READER,
        ),
        "service_needs": (Bundle("language model", *r.evaluation),),
        "trial_needs": (
            Bundle("Train worker", r.cpus_per_worker, r.gpus_per_worker, r.workers_per_trial),
            *(stream if streams else ()),
        ),
    }
