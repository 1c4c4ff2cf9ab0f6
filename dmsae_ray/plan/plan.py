"""The plan of an experiment: what it would do, what it costs and which resources it needs at once.

It is arithmetic on the config; nothing is started or downloaded, and of a model outside the table of known ones the
configuration is tried without weights. The module `fit` says whether a cluster can hold the experiment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dmsae_ray.config import Experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.capacity import Bundle
from dmsae_ray.plan.cost import Flops, Storage, experiment_flops, experiment_storage, window_bytes
from dmsae_ray.plan.model_size import KNOWN, ModelSize, config_file, model_size
from dmsae_ray.plan.speed import Rate, rate_of
from dmsae_ray.plan.timing import TrainingTime, harvest_hours, training_time
from dmsae_ray.plan.trials import Trial, expand
from dmsae_ray.plan.words import bytes_text, count_text, hours_text, many
from dmsae_ray.store import unpinned

READER = Bundle("tokenising task", 1.0)
"""The one tokenising task that a harvest needs at least; more run where there is room."""


@dataclass(frozen=True)
class Plan:
    """What an experiment would do.

    FLOPs and bytes are upper estimates: they assume that nothing is reused from an earlier run.

    Attributes:
        name: Name of the experiment.
        model: Name of the language model.
        layer: Block whose output the SAEs read.
        trials: All trials of the grid.
        trainings: SAE trainings; a training that several trials share counts once.
        trainings_unshared: SAE trainings if every trial trained its own cycle 0.
        controls: Those of `trainings` that train controls.
        steps: Steps of one training.
        batch_size: Tokens in a step.
        corpus_tokens: Training tokens of the corpus.
        attribution_tokens: Tokens with gradients, for the attribution scores.
        eval_tokens: Tokens for evaluation.
        flops: FLOPs, by what they are spent on.
        storage: Bytes, by what they hold.
        rate: The assumed speed of computing.
        training: The time of one training.
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
    model: str
    layer: int
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
        return self.trainings * self.steps * self.batch_size

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

    Args:
        experiment: The experiment.
        rate: The assumed speed of computing; by default that of `speed.rate_of`.

    Raises:
        ConfigError: The sizes of the model are not known, model.layer is not one of its blocks, or a model whose
            configuration is on this machine cannot be tapped there.
    """
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
    flops, rate = experiment_flops(experiment, size, trainings), rate or rate_of(experiment)
    return Plan(
        name=experiment.name,
        model=experiment.model.name,
        layer=experiment.model.layer,
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
        storage=experiment_storage(experiment, size, trainings, at_once),
        rate=rate,
        training=training_time(experiment, size, flops, trainings, rate),
        harvest_hours=harvest_hours(experiment, flops, rate),
        trainings_of_trial=unshared // len(trials),
        shares_cycle_0=experiment.transfer is None and experiment.distill.initial_sae is None,
        at_once=at_once,
        notes=(*unpinned(experiment), *_stream_notes(experiment, size)),
        **_needs(experiment),
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


def count_trainings(experiment: Experiment, trials: Sequence[Trial]) -> tuple[int, int, int]:
    """Count the SAE trainings of the trials if none collapses.

    Trials that differ only in coverage have the same cycle 0. Their later cycles differ, because the selected cores do.

    Returns:
        Distinct trainings, trainings if nothing were shared, and trainings of controls.
    """
    if experiment.transfer is not None:
        return len(trials), len(trials), 0
    distill = experiment.distill
    controls = len(trials) * len(distill.controls)
    later = len(trials) * distill.cycles + controls
    if distill.initial_sae is not None:
        return later, later, controls
    first = {trial.cycle_0 for trial in trials}
    return later + len(first), later + len(trials), controls


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
