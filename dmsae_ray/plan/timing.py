"""How long one SAE training takes, by arithmetic on an assumed speed, and what limits it."""

from dataclasses import dataclass, replace

from dmsae_ray.config import Experiment
from dmsae_ray.plan.cost import Flops, training_bytes
from dmsae_ray.plan.model_size import ModelSize
from dmsae_ray.plan.speed import Rate, reading_of


@dataclass(frozen=True)
class TrainingTime:
    """The time of one SAE training with its scoring and evaluation, and what limits it.

    Computing and reading go on at the same time: the next window of shards is copied while one is used.

    Attributes:
        computing: Hours of training and scoring on the trial's workers.
        reading: Hours of reading the training rows at the assumed rate; of computing them in mode 'stream'.
        evaluating: Hours of the language model for the loss recovered, at the end.
        bytes_per_second: What each worker must read to be busy all the time.
        source: What `reading` assumes.
    """

    computing: float
    reading: float
    evaluating: float
    bytes_per_second: float
    source: str

    @property
    def hours(self) -> float:
        """Hours from the first step to the end of the evaluation."""
        return self.of(1.0)

    def of(self, budget: float) -> float:
        """Return the hours of a training of `budget` times the tokens."""
        return budget * max(self.computing, self.reading) + self.evaluating

    def of_length(self, times: float) -> "TrainingTime":
        """Return the same for a training of `times` the tokens."""
        return replace(self, computing=times * self.computing, reading=times * self.reading)

    @property
    def limited_by_reading(self) -> bool:
        """Whether the workers wait for rows."""
        return self.reading > self.computing


def training_time(experiment: Experiment, size: ModelSize, flops: Flops, rate: Rate) -> TrainingTime:
    """Return the time of one training of recipe.tokens, which costs `flops`."""
    resources = experiment.resources
    workers = resources.workers_per_trial
    speed = rate.flops_per_second * units(resources.cpus_per_worker, resources.gpus_per_worker)
    computing = flops.training / (speed * workers) / 3600
    evaluating = flops.evaluation / (rate.flops_per_second * units(*resources.evaluation)) / 3600
    each = training_bytes(experiment, size) / workers
    needed = each / (computing * 3600)
    if experiment.activations.mode == "stream":
        unit = units(resources.cpus_per_model_actor, resources.gpus_per_model_actor)
        actors = rate.flops_per_second * unit * resources.model_actors_min
        reading, source = flops.streaming / actors / 3600, f"{resources.model_actors_min} x language-model actor"
    else:
        assumed = reading_of(experiment.output)
        reading, source = each / assumed.bytes_per_second / 3600, assumed.source
    return TrainingTime(computing, reading, evaluating, needed, source)


def harvest_hours(experiment: Experiment, flops: Flops, rate: Rate) -> float:
    """Return the hours of the harvest on all its language-model actors."""
    resources = experiment.resources
    unit = units(resources.cpus_per_model_actor, resources.gpus_per_model_actor)
    return flops.harvest / (rate.flops_per_second * unit * resources.model_actors_max) / 3600


def units(cpus: float, gpus: float) -> float:
    """Return how many GPUs a process computes with, or CPU cores where it has no GPU.

    Ray counts fractions of a GPU and does not divide it: a process shares it with as many others of its kind as fit.
    """
    if gpus == 0:
        return cpus
    return gpus if gpus >= 1 else 1 / int(1 / gpus + 1e-9)
