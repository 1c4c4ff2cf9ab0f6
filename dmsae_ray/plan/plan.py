"""Plan before paying: what an experiment would do, what it costs, what it needs at once, and whether that fits.

Pure arithmetic on the config. Tune, Train and Data together wait silently for ever when the pieces of a trial do not
fit a cluster; `check_fits` says so before anything starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dmsae_ray.config import Experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.capacity import Bundle, Cluster, cluster_of_ray, cluster_of_yaml
from dmsae_ray.plan.cost import Flops, Storage, experiment_flops, experiment_storage, window_bytes
from dmsae_ray.plan.model_size import ModelSize, model_size
from dmsae_ray.plan.trials import TrialSpec, expand
from dmsae_ray.store import unpinned
from dmsae_ray.sweep import DRIVER_CPUS

__all__ = ["Plan", "Rate", "check_fits", "cluster_of_ray", "cluster_of_yaml", "plan_experiment", "trials_at_once"]


@dataclass(frozen=True)
class Rate:
    """An assumed speed, and where it comes from."""

    flops_per_second: float
    unit: str
    source: str


GPU_RATE = Rate(
    1.4e14, "GPU", "40% of the 3.62e14 FLOP/s of an L40S in dense bfloat16; an H200 is about 2.7 times that"
)
CPU_RATE = Rate(4e10, "CPU core", "float32 on one core, as measured on the tiny model's SAEs")

READER = Bundle("tokenising task", 1.0)
"""The smallest of what turns text into tokens; more run where there is room."""


@dataclass(frozen=True)
class Plan:
    """What an experiment would do. FLOPs and bytes are upper estimates: nothing is taken from an earlier run."""

    name: str
    model: str
    layer: int
    specs: tuple[TrialSpec, ...]
    trainings: int
    """SAE trainings, each distinct one once."""
    trainings_unshared: int
    """SAE trainings if every trial trained its own cycle 0."""
    controls: int
    """Of `trainings`, those of controls."""
    steps: int
    batch_size: int
    corpus_tokens: int
    attribution_tokens: int
    eval_tokens: int
    flops: Flops
    storage: Storage
    rate: Rate
    at_once: int
    """Trials that may run at once: max_concurrent_trials, if given, or all; `trials_at_once` says how many fit."""
    harvest_needs: tuple[Bundle, ...]
    """What must be there at once to make activations."""
    service_needs: tuple[Bundle, ...]
    """What is there for as long as trials run."""
    trial_needs: tuple[Bundle, ...]
    """What one trial needs at once."""
    pool_needs: tuple[Bundle, ...] = ()
    """What the harvest holds at its largest, once the tokens are there; nothing where there is no long harvest."""
    notes: tuple[str, ...] = ()
    """What a person should know before paying, in one sentence each."""

    @property
    def training_tokens(self) -> int:
        """Tokens that pass through SAE training, all trainings together."""
        return self.trainings * self.steps * self.batch_size

    @property
    def unit_hours(self) -> float:
        """Hours of one GPU (or CPU core) at the assumed rate."""
        return self.flops.total / self.rate.flops_per_second / 3600

    def needs(self, trials: int) -> tuple[Bundle, ...]:
        """What the sweep needs at once with so many trials running."""
        many = [Bundle(b.what, b.cpus, b.gpus, b.count * trials) for b in self.trial_needs]
        return (*self.service_needs, *many)

    def beside_harvest(self, trials: int, waiting_trials: int = 0) -> tuple[Bundle, ...]:
        """What the sweep needs at once while the harvest goes on, with so many trials running and drivers waiting."""
        waiting = Bundle("waiting trial driver", DRIVER_CPUS, count=waiting_trials)
        return (*self.pool_needs, *self.needs(trials), waiting)

    def params(self) -> dict[str, int | float]:
        """For the tracking server."""
        return {
            "trials": len(self.specs),
            "planned_trainings": self.trainings,
            "planned_training_tokens": self.training_tokens,
            "planned_flops": self.flops.total,
            "planned_bytes": self.storage.total,
        }

    def line(self) -> str:
        """The plan in one line."""
        saved = self.trainings_unshared - self.trainings
        shared = f" ({saved} saved by sharing cycle 0)" if saved else ""
        return (
            f"{_many(len(self.specs), 'trial')}, {_many(self.trainings, 'SAE training')}{shared}, "
            f"{_count(self.training_tokens)} training tokens, {self.flops.total:.2g} FLOP, "
            f"{_bytes(self.storage.total)}, about {_hours(self.unit_hours)} of one {self.rate.unit}"
        )

    def text(self) -> str:
        """The plan for a person to read before paying."""
        flops, storage = self.flops, self.storage
        saved = self.trainings_unshared - self.trainings
        parts = {"harvest": flops.harvest, "training": flops.training, "evaluation": flops.evaluation}
        how = "harvested once"
        if flops.streaming:
            parts["streaming"], how = flops.streaming, "streamed to every training"
        spent = ", ".join(f"{name} {count:.2g}" for name, count in parts.items())
        hours = ", ".join(f"{name} {_hours(f / self.rate.flops_per_second / 3600)}" for name, f in parts.items())
        tokens = f"{_count(self.corpus_tokens)} {how}, {_count(self.attribution_tokens)} with gradients"
        training = f"{_count(self.steps * self.batch_size)} a training ({self.steps} steps of {self.batch_size})"
        lines = [
            f"{self.name}: {self.model}, residual stream after block {self.layer}",
            f"  trials      {len(self.specs)}: {_names(self.specs)}",
            f"  trainings   {self.trainings}, of them {self.controls} of controls; "
            f"sharing cycle 0 saves {saved} of {self.trainings_unshared}",
            f"  tokens      {tokens}, {_count(self.eval_tokens)} for evaluation;",
            f"              {training}, {_count(self.training_tokens)} in all",
            f"  FLOP        {flops.total:.3g}: {spent}",
            f"  time        {_hours(self.unit_hours)} of one {self.rate.unit} ({hours}),",
            f"              assuming {self.rate.flops_per_second:.2g} FLOP/s: {self.rate.source}",
            f"  storage     {_bytes(storage.total)}: activations {_bytes(storage.activations)}, "
            f"cycles {_bytes(storage.cycles)}, checkpoints {_bytes(storage.checkpoints)}",
            f"  harvest     needs at once {_sum(self.harvest_needs)}",
            f"  one trial   needs at once {_sum(self.needs(1))}",
            f"  at once     at most {_many(self.at_once, 'trial')}, with {_totals(self.needs(self.at_once))}",
            *([f"  overlap     {self._overlap()}"] if self.pool_needs else []),
            *(f"  note        {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _overlap(self) -> str:
        return f"trials begin while the harvest goes on, where there are {_totals(self.beside_harvest(1))}; else after"


def plan_experiment(experiment: Experiment, *, rate: Rate | None = None) -> Plan:
    """Expand the grid and add it up; nothing is started or downloaded.

    Args:
        experiment: the experiment.
        rate: assumed speed; default GPU_RATE where workers have GPUs, CPU_RATE otherwise.

    Raises:
        ConfigError: the model's sizes are not known, or model.layer is beyond them.
    """
    size = model_size(experiment.model.name, experiment.model.revision)
    if experiment.model.layer >= size.layers:
        raise ConfigError(
            f"model.layer is {experiment.model.layer}; '{experiment.model.name}' has blocks 0 to {size.layers - 1}"
        )
    specs = tuple(expand(experiment))
    trainings, unshared, controls = count_trainings(experiment, specs)
    resources = experiment.resources
    at_once = min(len(specs), resources.max_concurrent_trials or len(specs))
    return Plan(
        name=experiment.name,
        model=experiment.model.name,
        layer=experiment.model.layer,
        specs=specs,
        trainings=trainings,
        trainings_unshared=unshared,
        controls=controls,
        steps=experiment.recipe.steps,
        batch_size=experiment.recipe.batch_size,
        corpus_tokens=experiment.corpus.tokens,
        attribution_tokens=experiment.corpus.attribution_tokens,
        eval_tokens=experiment.corpus.eval_tokens,
        flops=experiment_flops(experiment, size, trainings),
        storage=experiment_storage(experiment, size, trainings, at_once),
        rate=rate or (GPU_RATE if resources.gpus_per_worker else CPU_RATE),
        at_once=at_once,
        notes=(*unpinned(experiment), *_stream_notes(experiment, size)),
        **_needs(experiment),
    )


def _stream_notes(experiment: Experiment, size: ModelSize) -> tuple[str, ...]:
    if experiment.activations.mode != "stream":
        return ()
    held = _bytes(2 * window_bytes(experiment, size))
    return (
        f"a trial's stream holds up to {held} in Ray's object store (two windows), or spills what that has no room for",
    )


def count_trainings(experiment: Experiment, specs: Sequence[TrialSpec]) -> tuple[int, int, int]:
    """(distinct trainings, trainings without sharing, those of controls) if no trial collapses.

    Trials that differ in coverage only have the same cycle 0; later cycles differ with the core that was selected.
    """
    if experiment.transfer is not None:
        return len(specs), len(specs), 0
    distill = experiment.distill
    controls = len(specs) * len(distill.controls)
    later = len(specs) * distill.cycles + controls
    if distill.initial_sae is not None:
        return later, later, controls
    first = {(s.k, s.seed, s.data_seed, s.core_sparsity) for s in specs}
    return later + len(first), later + len(specs), controls


def _needs(experiment: Experiment) -> dict[str, tuple[Bundle, ...]]:
    r = experiment.resources
    pool = (Bundle("language-model actor", r.cpus_per_model_actor, r.gpus_per_model_actor, r.model_actors_max),)
    stream = (
        Bundle("its language-model actor", r.cpus_per_model_actor, r.gpus_per_model_actor, r.model_actors_min),
        Bundle("stream driver", DRIVER_CPUS),
    )
    streams = experiment.activations.mode == "stream"
    return {
        "pool_needs": () if streams else pool,
        "harvest_needs": (
            Bundle("language-model actor", r.cpus_per_model_actor, r.gpus_per_model_actor, r.model_actors_min),
            READER,
        ),
        "service_needs": (
            Bundle("language model", r.cpus_per_model_actor, r.gpus_per_model_actor),
            Bundle("claims of cycles", DRIVER_CPUS),
        ),
        "trial_needs": (
            Bundle("Train worker", r.cpus_per_worker, r.gpus_per_worker, r.workers_per_trial),
            Bundle("trial driver", DRIVER_CPUS),
            *(stream if streams else ()),
        ),
    }


def check_fits(plan: Plan, cluster: Cluster) -> None:
    """See that a cluster at its largest can hold the harvest and, after it, a trial.

    Raises:
        ConfigError: it cannot; the message has the sum, what there is, and the settings to change.
    """
    _check(plan.harvest_needs, cluster, "harvesting", "resources.model_actors_min or cpus/gpus_per_model_actor")
    settings = "resources.workers_per_trial, cpus/gpus_per_worker or cpus/gpus_per_model_actor"
    _check(plan.needs(1), cluster, "a trial", settings)


def trials_at_once(plan: Plan, cluster: Cluster) -> int:
    """How many trials to run together: as many as fit, of those that may; more would hold resources and wait."""
    return _most(plan.at_once, plan.needs, cluster)


def trials_beside_harvest(plan: Plan, cluster: Cluster, on_paper: float = 0.0) -> int:
    """How many trials may run while the harvest's whole pool is at work; 0: they begin after it.

    Args:
        plan: of the experiment.
        cluster: at its largest.
        on_paper: CPUs that the cluster counts and does not have: where harvest and trials would share a core, both
            at once took longer than one after the other.

    The cluster has to hold both to the last actor: a trial waits for shards, so it must never hold what a model actor
    that was lost needs to come back.
    """
    most = trials_at_once(plan, cluster)
    missing = (Bundle("CPU that is not there", on_paper),) if on_paper else ()
    return _most(most, lambda n: (*missing, *plan.beside_harvest(n, most - n)), cluster) if plan.pool_needs else 0


def _most(high: int, needs: Callable[[int], tuple[Bundle, ...]], cluster: Cluster) -> int:
    """The largest number up to `high` whose needs fit; 0 if not even one's do."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cluster.unplaced(needs(middle)) is None else (low, middle - 1)
    return low


def _check(bundles: tuple[Bundle, ...], cluster: Cluster, what: str, settings: str) -> None:
    stuck = cluster.unplaced(bundles)
    if stuck is None:
        return
    cpus, gpus = cluster.totals()
    scattered = sum(b.cpus * b.count for b in bundles) <= cpus and sum(b.gpus * b.count for b in bundles) <= gpus
    why = f"; in sum that is there, but no node has room left for {stuck.what}" if scattered else ""
    raise ConfigError(
        f"{what} needs {_sum(bundles)} at once{why}; {cluster}, together at most {cpus:g} CPU and {gpus:g} GPU; "
        f"lower {settings}, or take a larger cluster"
    )


def _totals(bundles: Sequence[Bundle]) -> str:
    return f"{sum(b.cpus * b.count for b in bundles):g} CPU + {sum(b.gpus * b.count for b in bundles):g} GPU"


def _sum(bundles: Sequence[Bundle]) -> str:
    return f"{_totals(bundles)} = {' + '.join(str(b) for b in bundles)}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _names(specs: Sequence[TrialSpec], shown: int = 4) -> str:
    names = [spec.trial_id for spec in specs]
    return ", ".join(names if len(names) <= shown + 1 else [*names[: shown - 1], "...", names[-1]])


def _count(tokens: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:g}"


def _bytes(count: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _hours(hours: float) -> str:
    return f"{hours:.3g} h" if hours >= 1 else f"{hours * 60:.2g} min"
