"""One evaluation of one trained SAE: a Ray task, which gives SAEBench's process what it needs on this machine."""

import hashlib
import json
import os
import re
import socket
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dmsae_ray import __version__
from dmsae_ray.config import Experiment, parse_experiment
from dmsae_ray.errors import ConfigError, DmsaeError, one_line
from dmsae_ray.files import Folder, be_patient, on_this_machine
from dmsae_ray.saebench import VERSION, Job, Outcome, make_environment, run_job
from dmsae_ray.sweep.quality import QUALITY_VERSION, QualityTask, measure_quality

OWN = "own"
"""The evaluation that is not SAEBench's: `quality.measure_quality`."""
_SAE_FILES = ("config.json", "sae.safetensors")
CORE_SETTINGS: dict[str, Any] = {
    "batch_size_prompts": 16,
    "n_eval_reconstruction_batches": 200,
    "n_eval_sparsity_variance_batches": 2000,
    "dataset": "Skylion007/openwebtext",
    "context_size": 128,
}
"""What SAEBench's own script for all evaluations gives to `core`."""


@dataclass(frozen=True)
class EvaluationTask:
    """What is evaluated, and how.

    Attributes:
        experiment: the experiment, as JSON.
        stores: place of the stores.
        store: key of the store.
        cycles: place of the cycles.
        key: key of the cycle whose SAE it is.
        evaluation: a name of `saebench.SUITE`, or `OWN`.
        own_text: whether `core` reads the held-out tokens of the store.
        data: labelled texts in place of the benchmark's data sets, content by file name.
        forget_corpus: path of the file for `unlearning`, on all machines.
        forget_corpus_sha256: its hash.
        batch: contexts that the language model reads at once.
    """

    experiment: dict[str, Any]
    stores: str
    store: str
    cycles: str
    key: str
    evaluation: str
    own_text: bool = False
    data: dict[str, str] = field(default_factory=dict)
    forget_corpus: str | None = None
    forget_corpus_sha256: str | None = None
    batch: int = 32

    @property
    def identity(self) -> dict[str, Any]:
        """What the numbers depend on, beside the SAE: with it they are kept, and found again."""
        experiment = parse_experiment(self.experiment)
        model = {"name": experiment.model.name, "revision": experiment.model.revision, "dtype": experiment.model.dtype}
        found: dict[str, Any] = {"evaluation": self.evaluation}
        if self.evaluation == OWN:
            return {**found, "version": QUALITY_VERSION, "store": self.store}
        found |= {"saebench": VERSION, "model": model}
        if self.evaluation == "core":
            text: dict[str, Any] = {"store": self.store} if self.own_text else CORE_SETTINGS
            return {**found, "text": text}
        if self.data:
            content = json.dumps(self.data, sort_keys=True).encode()
            return {**found, "data": hashlib.sha256(content).hexdigest()}
        if self.evaluation == "unlearning":
            return {**found, "forget_corpus": self.forget_corpus_sha256}
        return found

    @property
    def file(self) -> str:
        """Name of the file of its outcome, in the cycle's folder."""
        return outcome_file(self.identity)

    def content(self, outcome: Outcome) -> bytes:
        """Return what the file holds."""
        tree = {**self.identity, "outcome": {name: v for name, v in asdict(outcome).items() if name != "log"}}
        return json.dumps(tree, indent=1).encode()


def outcome_file(identity: Mapping[str, Any]) -> str:
    """Return the name of the file, in the cycle's folder, of the outcome of an evaluation with this identity."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"eval-{identity['evaluation']}-{digest[:16]}.json"


def failed(error: Exception, log: str = "") -> Outcome:
    """Return the outcome of an evaluation that failed with an error."""
    kind = "" if isinstance(error, DmsaeError) else f"{type(error).__name__}: "
    return Outcome({}, {}, "", 0.0, f"{kind}{one_line(error)}", log)


def evaluate_sae(task: EvaluationTask) -> Outcome:
    """Evaluate an SAE; that it cannot be evaluated is part of the outcome, so that it takes no other along."""
    be_patient()
    try:
        if task.evaluation == OWN:
            return _own(task)
        with tempfile.TemporaryDirectory(prefix="dmsae-eval-") as scratch:
            return _saebench(task, parse_experiment(task.experiment), Path(scratch))
    except DmsaeError as error:
        return failed(error)
    except Exception as error:  # whatever is wrong with one SAE, the others are evaluated
        return failed(error, traceback.format_exc())


def _own(task: EvaluationTask) -> Outcome:
    begun = time.monotonic()
    found = measure_quality(QualityTask(task.experiment, task.stores, task.store, task.cycles, task.key))
    numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    details = {name: value for name, value in found.items() if name not in numbers}
    return Outcome(numbers, {"dmsae_ray": __version__}, "", time.monotonic() - begun, details=details)


def _saebench(task: EvaluationTask, experiment: Experiment, scratch: Path) -> Outcome:
    model = experiment.model
    name = model.name
    # What the command has checked on its own machine may be missing on this one.
    if task.evaluation == "autointerp" and not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError(f"OPENAI_API_KEY is not set on {socket.gethostname()}; set it where Ray is started there")
    if task.forget_corpus is not None and not Path(task.forget_corpus).is_file():
        raise ConfigError(f"--forget-corpus is '{task.forget_corpus}'; {socket.gethostname()} has no such file")
    if name == "tiny":
        from dmsae_ray.lm import tiny_model

        name = str(tiny_model())
    tokens = None
    if task.evaluation == "core" and task.own_text:
        from safetensors.torch import save_file

        from dmsae_ray.store import open_store

        store = open_store(task.stores, experiment, task.store)
        tokens = str(scratch / "tokens.safetensors")
        save_file({"tokens": store.eval_tokens()}, tokens)
    for file, text in task.data.items():
        (scratch / file).write_text(text, encoding="utf-8")
    with on_this_machine(Folder(task.cycles) / task.key / "sae", _SAE_FILES) as sae:
        job = Job(
            evaluation=task.evaluation,
            sae=str(sae),
            model=name,
            revision=model.revision,
            model_key=_key(experiment),
            layer=model.layer,
            context=experiment.corpus.context,
            dtype=model.dtype,
            batch=task.batch,
            tokens=tokens,
            data=str(scratch) if task.data else None,
            forget_corpus=task.forget_corpus,
            settings={} if tokens is not None or task.evaluation != "core" else CORE_SETTINGS,
        )
        return run_job(job, make_environment())


def _key(experiment: Experiment) -> str:
    """Return a name for files of a model that TransformerLens does not know: its own, and a hash of the rest."""
    model = experiment.model
    digest = hashlib.sha256(f"{model.name} {model.revision} {model.dtype}".encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', model.name.rstrip('/').rpartition('/')[2])}-{digest[:8]}"
