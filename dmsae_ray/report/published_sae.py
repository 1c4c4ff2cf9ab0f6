"""A published SAE: all that its card says, and what a card calls things."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmsae_ray.config import Experiment
from dmsae_ray.distill import DISTILLED, Core, CycleReport
from dmsae_ray.lm import Licence
from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.found_again import Rediscovery
from dmsae_ray.report.measured_quality import Quality
from dmsae_ray.results import TrialResult
from dmsae_ray.sae import MatryoshkaSAE, saelens_metadata

FORMATS = ("saelens", "dmsae", "dictionary_learning")
"""Names of the formats, and of their folders."""


@dataclass(frozen=True, eq=False)
class PublishedSAE:
    """An SAE with all that its card says.

    Attributes:
        result: its trial.
        report: its own cycle, or control.
        experiment: the experiment, with names that mean something to others (`published_folder.public_experiment`).
        about: the note with the SAE, with such names.
        public: what of model and text others find under these names: 'model', 'text'.
        sae: the SAE.
        over_seeds: its setting over the seeds; None where it is not in the report.
        core: the core that goes along as a file: the distilled core of a trial of cycles, the given one of a transfer.
        places: row in the SAE of each latent of that core; empty where it is not a part of this SAE.
        found: rediscovery of the sweep's cores; None where it was not measured.
        quality: what `dmsae eval` has measured; None where it has nothing of the SAE.
        licence: licence of the language model; None where it is not known.
        formats: those of FORMATS that are in the folder.
        repo: user/name of the repository; None while there is none.
        files: the other files, by name, with what they are.
    """

    result: TrialResult
    report: CycleReport
    experiment: Experiment
    about: dict[str, Any]
    public: frozenset[str]
    sae: MatryoshkaSAE
    over_seeds: Aggregate[Setting] | None
    core: Core | None
    places: tuple[int, ...]
    found: Rediscovery | None
    quality: Quality | None
    licence: Licence | None
    formats: tuple[str, ...]
    repo: str | None
    files: tuple[tuple[str, str], ...]

    @property
    def is_control(self) -> bool:
        """Whether it is a control of a trial of cycles."""
        return isinstance(self.result.setting, CycleSetting) and self.report.arm != DISTILLED

    @property
    def is_last(self) -> bool:
        """Whether the numbers of the last cycle are its own."""
        return self.report == self.result.last


def is_on_hub(one: PublishedSAE) -> bool:
    """Return whether others find the language model on the Hub."""
    return "model" in one.public and one.about["model"] != "tiny"


def model_of(one: PublishedSAE) -> str:
    """Return what the card calls the language model, with a link where others find it."""
    name = one.about["model"]
    if name == "tiny":
        return "the embedded tiny Gemma-2 of dmsae_ray (a test model of four blocks)"
    return f"[{name}](https://huggingface.co/{name})" if is_on_hub(one) else f"{code(name)}, which is not public"


def hook_of(one: PublishedSAE) -> str:
    """Return SAELens's name of the place that the SAE reads."""
    return str(saelens_metadata(one.about)["hook_name"])


def code(name: str) -> str:
    """Return a name as code in a line of Markdown, whatever it holds."""
    shown = "".join(letter if letter.isprintable() else " " for letter in name)
    fence = "`" * (1 + max((len(ticks) for ticks in re.findall("`+", shown)), default=0))
    return f"{fence}{shown}{fence}" if len(fence) == 1 else f"{fence} {shown} {fence}"


def in_words(name: str) -> str:
    """Return a name of ours as words."""
    return name.replace("_", " ")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([" ".join(cell.split()) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
