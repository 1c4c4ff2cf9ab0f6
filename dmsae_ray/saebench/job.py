"""One evaluation of one SAE: a process of SAEBench's environment that reads a job file and writes a result file."""

import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dmsae_ray.errors import DataError
from dmsae_ray.saebench.environment import inner_environment

_PROGRAM = Path(__file__).with_name("inside")
_TAIL = 200
"""Lines of a failed process's output that are kept."""
_SHORTEST_SECRET = 8
"""Characters; a shorter value may be a word."""


@dataclass(frozen=True)
class Job:
    """What is evaluated, and how. All paths are of this machine.

    Attributes:
        evaluation: a name of `suite.SUITE`.
        sae: folder of an SAE in our format, for raw activations.
        model: Hub id or folder of the language model.
        revision: of the Hub.
        model_key: what SAEBench calls a model that TransformerLens does not know by name.
        layer: block whose residual stream the SAE reads.
        context: tokens of a context of its training.
        dtype: of the language model.
        batch: contexts that the language model reads at once.
        tokens: file of contexts (`tokens` [n, t]) that `core` reads in place of its data set, or None.
        data: folder of labelled texts in place of the data sets, or None.
        forget_corpus: file for `unlearning`, or None.
        settings: fields of SAEBench's configuration of this evaluation that are not its defaults.
    """

    evaluation: str
    sae: str
    model: str
    revision: str | None
    model_key: str
    layer: int
    context: int
    dtype: str
    batch: int
    tokens: str | None = None
    data: str | None = None
    forget_corpus: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        metrics: the numbers, by SAEBench's names; empty where it failed.
        versions: of what measured.
        device: 'cpu' or 'cuda'.
        seconds: how long it took.
        error: why it failed, a line; empty where it did not.
        log: the end of the output of a process that failed.
        details: what is not a number, as JSON.
    """

    metrics: dict[str, float]
    versions: dict[str, str]
    device: str
    seconds: float
    error: str = ""
    log: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def run_job(job: Job, python: Path) -> Outcome:
    """Run a job and return what came of it; a failure of the evaluation is returned, not raised.

    Args:
        job: the job.
        python: that of SAEBench's environment.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dmsae-eval-") as folder:
        place = Path(folder)
        if job.forget_corpus is not None:  # SAEBench reads it below the working directory, by this name alone
            data = place / "sae_bench" / "evals" / "unlearning" / "data"
            data.mkdir(parents=True)
            (data / "bio-forget-corpus.jsonl").symlink_to(job.forget_corpus)
        (place / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
        with (place / "output.txt").open("w+", encoding="utf-8", errors="replace") as output:
            code = subprocess.run(
                [str(python), str(_PROGRAM), str(place / "job.json"), str(os.getpid())],
                cwd=place,
                env=inner_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ).returncode
            output.seek(0)
            said = _without_secrets(output.read())
        seconds = time.monotonic() - begun
        written = place / "result.json"
        if code != 0 or not written.is_file():
            tail = said.splitlines()[-_TAIL:]
            return Outcome({}, {}, "", seconds, _reason(code, tail), "\n".join(tail))
        found = json.loads(written.read_text(encoding="utf-8"))
    return Outcome(found["metrics"], found["versions"], found["device"], seconds)


def read_outcome(content: bytes, place: str) -> Outcome:
    """Return the outcome in the content of a file, under the key 'outcome'.

    Args:
        content: of the file.
        place: what a message calls the file.

    Raises:
        DataError: it is damaged.
    """
    try:
        found = Outcome(**json.loads(content)["outcome"])
        if found.error or not all(isinstance(value, int | float) for value in found.metrics.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place} is damaged ({type(error).__name__})") from None
    return found


def _without_secrets(text: str) -> str:
    """Return a text without the passwords and keys of this process's environment."""
    for name, value in os.environ.items():
        if name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, f"({name})")
    return text


def _reason(code: int, said: list[str]) -> str:
    """Return a line for a process that failed: its last error."""
    if code < 0:
        return f"its process was ended by signal {-code} (out of memory?)"
    errors = [
        line.strip()
        for line in said
        if line and not line[0].isspace() and ": " in line and "Error" in line.split(": ")[0]
    ]
    last = errors[-1] if errors else next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
    return last[:300]
