"""The sections of an experiment. Every field states its unit and its bounds."""

import codecs
import json
import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from dmsae_ray.config.axes import EXPONENT, read_axes
from dmsae_ray.config.messages import allowed
from dmsae_ray.files import HUB_FORM, HUB_SCHEME, hub_place

Score = Literal["quantile", "mean", "mean_square", "trimmed_mean", "max", "frequency", "random"]
Mask = Literal["threshold", "batch_topk"]
Control = Literal["gaussian", "gaussian_unit", "random_latents", "matched_frequency", "lowest_score", "most_frequent"]
CoreSparsity = Literal["dense", "sparse"]
Trouble = Literal["not_finite", "no_latent_fires", "all_dead", "spike"]
Coverage = Annotated[float, Field(gt=0, le=1)]
K = Annotated[int, Field(ge=1)]
Budget = Annotated[float, Field(gt=0, le=1000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]

SAEBENCH_FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
"""SAEBench's Matryoshka group fractions; the last group takes the latents that rounding leaves over."""


MATCHED = "matched"
"""In `transfer.baseline_k`: the k that match what the SAEs around a core measure."""

_Values = TypeVar("_Values", bound="tuple[Any, ...] | None")


class Section(BaseModel):
    """Base of all sections.

    It allows no unknown field, no change and no infinite number, and reads numbers as a person means them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    later: ClassVar[frozenset[str]] = frozenset()
    """Settings that came after version 0.1.0: with their default, hashes leave them out, and old results are found."""

    def identity(self) -> dict[str, Any]:
        """Return the settings as they count in hashes."""
        tree = self.model_dump(mode="json")
        plain = {name for name in self.later if getattr(self, name) == self.__class__.model_fields[name].default}
        return {name: value for name, value in tree.items() if name not in plain}

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        """Read 5e8 as a number and refuse `yes` for one: YAML 1.1 reads the first as text and the second as true."""
        rule = allowed(cls.model_fields[info.field_name or ""])
        numeric = "number" in rule and "text" not in rule
        for item in value if isinstance(value, list | tuple) else (value,):
            if numeric and isinstance(item, bool):
                raise ValueError(f"is {json.dumps(value)}; it must be {rule}")
        if numeric and isinstance(value, str) and EXPONENT.fullmatch(value):
            return float(value)
        return value


def _distinct(values: _Values) -> _Values:
    """Check that a list has at least one item, and no item twice: each item becomes a run of its own."""
    if values is not None and (not values or len(set(values)) != len(values)):
        raise ValueError(f"is {json.dumps(list(values))}; it must hold at least one value, and none twice")
    return values


def _of_a_model(place: str | None) -> str | None:
    """Check that a URI of the Hub is of a repository of a model: those of data sets are spelt alike."""
    if place is not None and place.startswith(HUB_SCHEME) and hub_place(place) is None:
        raise ValueError(f"is {json.dumps(place)}; on the Hub it must be {HUB_SCHEME}{HUB_FORM}, of a model")
    return place


def _whole_above_one(gpus: float | None) -> float | None:
    """Check a number of GPUs: Ray assigns a share of one GPU, or several whole GPUs."""
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise ValueError(f"is {gpus:g}; it must be at most 1, or a whole number of GPUs")
    return gpus


class ModelSettings(Section):
    """The language model and the place where its residual stream is read."""

    name: str = Field("google/gemma-2-2b", description="'tiny' (embedded), a Hugging Face Hub id, or a local folder")
    revision: str | None = Field(None, description="Hub revision (commit or tag); pin it for results that last")
    layer: int = Field(12, ge=0, description="read the residual stream after this block, counted from 0")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="dtype the model runs in")
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = Field(
        "auto", description="attention implementation; 'auto' keeps soft-capping right (eager for Gemma 2)"
    )


UTF_8 = "utf-8"


class CorpusSettings(Section):
    """The text, how it is cut into contexts, and how many tokens of it are used for what."""

    later = frozenset({"special_tokens", "encoding"})

    source: Literal["stdlib", "huggingface", "parquet", "arrow", "jsonl", "text"] = Field(
        "huggingface",
        description="'stdlib' is the text every Python carries; others read `path`; 'arrow': a folder of save_to_disk",
    )
    path: str | None = Field(
        "monology/pile-uncopyrighted",
        description="Hub id of a dataset, or a file or folder: local, s3://, gs://, hf://",
    )
    subset: str | None = Field(None, description="configuration name of a Hub dataset")
    split: str = Field("train", description="split of a Hub dataset, or of a DatasetDict (source 'arrow')")
    revision: str | None = Field(None, description="Hub revision of the dataset")
    text_field: str = Field(
        "text", description="column or key that holds the text, or a list of messages {role, content}"
    )
    encoding: str = Field(
        "utf-8",
        description="encoding of sources 'text' and 'jsonl', as Python names it: utf-8, latin-1, cp1252, utf-16",
    )
    special_tokens: Literal["text", "tokens"] = Field(
        "text",
        description="the name of a special token in a text, as <bos>: its letters ('text') or the token ('tokens')",
    )
    context: int = Field(1024, ge=8, le=131_072, description="tokens in a context, BOS included")
    tokens: int = Field(500_000_000, ge=64, description="tokens whose activations are harvested for training")
    attribution_tokens: int = Field(1_000_000, ge=16, description="held-out tokens for the (x, gradient) pairs")
    eval_tokens: int = Field(262_144, ge=16, description="held-out tokens for FVU and loss recovered")

    @model_validator(mode="before")
    @classmethod
    def _stdlib_has_no_path(cls, data: Any) -> Any:
        """Set `path` to None for source 'stdlib', and refuse any other path, since it would not be read."""
        if isinstance(data, dict) and data.get("source") == "stdlib":
            if data.get("path") is not None:
                raise ValueError(f"corpus.path is {json.dumps(data['path'], default=str)}; source 'stdlib' reads none")
            return {**data, "path": None}
        return data

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        """Return Python's own name of an encoding of text, so that `UTF8` and `utf-8` are one."""
        try:
            "a".encode(encoding)  # refuses what is a codec and gives no text, as hex
            return codecs.lookup(encoding).name
        except (LookupError, ValueError):
            raise ValueError(
                f"is {json.dumps(encoding)}; it must be an encoding that Python knows: utf-8, latin-1, utf-16, ..."
            ) from None

    @model_validator(mode="after")
    def _encoding_is_used(self) -> "CorpusSettings":
        if self.encoding != UTF_8 and self.source not in ("text", "jsonl"):
            raise ValueError(
                f"corpus.encoding is '{self.encoding}'; source '{self.source}' is {UTF_8}: only 'text' and 'jsonl' are "
                "read in another encoding"
            )
        return self

    @model_validator(mode="after")
    def _source_has_path(self) -> "CorpusSettings":
        if self.source != "stdlib" and not self.path:
            raise ValueError(f"corpus.path is empty; source '{self.source}' needs a dataset id, file or folder")
        return self


NO_FILTERS = {"drop_bos": False, "drop_special": False, "max_norm_multiple": None}


class ActivationSettings(Section):
    """How activations are filtered and kept."""

    mode: Literal["store", "stream"] = Field(
        "store",
        description="'store': the model runs once, shards on disk serve all trials of all sweeps; 'stream': training "
        "rows are kept nowhere, each training has model actors of its own; the batches are the same",
    )
    dtype: Literal["bfloat16", "float16", "float32", "int8"] = Field(
        "bfloat16",
        description="dtype of stored activations; 'int8' (a scale a token) is for training rows, others are bfloat16",
    )
    shard_tokens: int = Field(262_144, ge=64, description="tokens of a shard, before filters")
    shuffle_shards: int = Field(16, ge=1, description="rows are shuffled within windows of this many shards")
    norm_tokens: int = Field(
        1_000_000, ge=16, description="first training tokens, rounded up to shards, behind the norm factor"
    )
    drop_bos: bool = Field(True, description="leave out BOS positions")
    drop_special: bool = Field(
        False, description="leave out the tokenizer's other special tokens, as the EOS between two documents"
    )
    max_norm_multiple: float | None = Field(
        10.0, gt=1, description="leave out tokens with a norm above this multiple of the median (attention sinks)"
    )


class SAESettings(Section):
    """The dictionary."""

    later = frozenset({"core_takes"})

    n_latents: int = Field(65_536, ge=2, description="all latents, core included")
    group_sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        description="Matryoshka groups, adding up to n_latents, before the core takes its own. Default: SAEBench's",
    )
    k: K = Field(80, description="target L0 of the baseline (Eq. 4 scales it to the non-core latents)")
    core_sparsity: CoreSparsity = Field("dense", description="is the core exempt from BatchTopK (Eq. 3) or not")
    core_decoder_init: Literal["random", "tied"] = Field("random", description="first decoder rows of the core")
    core_takes: Literal["last_group", "all_groups"] = Field(
        "last_group",
        description="groups that give up latents to the core: the last, or all in proportion to their size",
    )

    @property
    def groups(self) -> tuple[int, ...]:
        """Group sizes, which add up to `n_latents`."""
        if self.group_sizes is not None:
            return self.group_sizes
        head = [int(fraction * self.n_latents) for fraction in SAEBENCH_FRACTIONS[:-1]]
        return (*head, self.n_latents - sum(head))

    @model_validator(mode="after")
    def _adds_up(self) -> "SAESettings":
        if self.group_sizes is not None and sum(self.group_sizes) != self.n_latents:
            raise ValueError(
                f"sae.group_sizes {list(self.group_sizes)} add up to {sum(self.group_sizes)}; "
                f"they must add up to sae.n_latents = {self.n_latents}"
            )
        if min(self.groups) < 1:
            raise ValueError(
                f"sae.n_latents is {self.n_latents}; SAEBench's groups need at least 32, or give group_sizes"
            )
        return self


class RecipeSettings(Section):
    """How one SAE is trained. The defaults are SAEBench's Matryoshka recipe."""

    later = frozenset({"threshold"})

    name: Literal["default", "saebench"] = Field(
        "default", description="'saebench' trains on BOS and high-norm tokens too, and keeps the running threshold"
    )
    tokens: int = Field(500_000_000, ge=1, description="training tokens of one cycle")
    batch_size: int = Field(2048, ge=1, description="tokens of one step, over all workers")
    lr: float = Field(3e-4, gt=0, le=1, description="peak learning rate of Adam")
    warmup_steps: int = Field(1000, ge=0, description="linear warm-up")
    decay_start: float = Field(0.8, gt=0, le=1, description="share of the steps after which lr falls to 0, linearly")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="Adam's decay rates"
    )
    clip_norm: float = Field(1.0, gt=0, description="global gradient norm")
    auxk_alpha: float = Field(1 / 32, ge=0, description="weight of the AuxK loss on dead latents")
    k_aux: int | None = Field(None, ge=1, description="dead latents used by AuxK; default d_model // 2")
    dead_after_tokens: int = Field(10_000_000, ge=1, description="a latent silent for so many tokens is dead")
    threshold_beta: float = Field(0.999, ge=0, lt=1, description="decay of the running threshold")
    threshold_start_step: int = Field(1000, ge=0, description="the running threshold is estimated after this step")
    threshold: Literal["calibrated", "running_mean"] = Field(
        "calibrated",
        description="inference threshold: set after the last step so that L0 is the budget, or SAEBench's running mean "
        "(as `recipe: saebench` has it)",
    )
    group_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None, description="weights of the prefixes' losses; default: 1 / groups each"
    )
    stop_on: tuple[Trouble, ...] = Field(
        ("not_finite", "no_latent_fires", "all_dead"),
        description="troubles that end a training; others are reported only",
    )

    @property
    def steps(self) -> int:
        """Optimiser steps of one cycle."""
        return self.tokens // self.batch_size

    @property
    def whole_tokens(self) -> int:
        """Tokens of these steps: `tokens`, down to whole batches."""
        return self.steps * self.batch_size

    def times(self, budget: float) -> "RecipeSettings":
        """Return the recipe of a training of `budget` times the tokens; lr falls at the same share of its steps.

        Raises:
            ValidationError: so many tokens are too few for the other settings.
        """
        if budget == 1:
            return self
        return RecipeSettings.model_validate({**self.model_dump(), "tokens": round(budget * self.tokens)})

    @model_validator(mode="after")
    def _has_steps(self) -> "RecipeSettings":
        if self.steps < 2:
            raise ValueError(f"recipe.tokens is {self.tokens}; at least two batches of {self.batch_size} are needed")
        if self.threshold == "running_mean" and self.threshold_start_step > self.steps - 2:
            raise ValueError(
                f"recipe.threshold_start_step is {self.threshold_start_step}; with {self.steps} steps a cycle "
                f"it must be at most {self.steps - 2}, or no inference threshold is ever estimated"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"recipe.warmup_steps is {self.warmup_steps}; it must be below the {self.steps} steps of a cycle"
            )
        if self.warmup_steps > int(self.decay_start * self.steps):
            raise ValueError(
                f"recipe.decay_start is {self.decay_start:g}; lr would fall from step "
                f"{int(self.decay_start * self.steps)} of {self.steps}, while it still warms up ({self.warmup_steps})"
            )
        return self


class DistillSettings(Section):
    """The train-and-select cycles (Algorithm 1) and the selection (Algorithm 2)."""

    later = frozenset({"initial_sae_any_k", "core_size", "mask", "intersect", "fresh_attribution", "control_chains"})

    cycles: int = Field(4, ge=1, le=100, description="cycles with a core, after cycle 0")
    coverage: Coverage = Field(0.9, description="share of the attribution that the core must explain (tau, Eq. 7)")
    score: Score = Field("quantile", description="how |gradient x activation| of the tokens becomes one score (Eq. 6)")
    quantile: float = Field(0.99, ge=0, le=1, description="q of score 'quantile'; above it, 'trimmed_mean' leaves out")
    pool_groups: int = Field(1, ge=1, description="candidate pool: core and this many Matryoshka groups")
    mask: Mask = Field(
        "threshold",
        description="activations that count in a score: above the inference threshold, or by BatchTopK over the pool",
    )
    core_size: int | None = Field(
        None, ge=1, description="select so many of the best-scoring latents, in place of a coverage"
    )
    intersect: int = Field(
        1,
        ge=1,
        le=1000,
        description="score each of so many equal parts of the attribution set and take each latent's lowest score: "
        "what is then selected matters in every part",
    )
    fresh_attribution: bool = Field(
        False, description="score each cycle on a part of its own of the attribution set, 1 / (cycles + 1) of it"
    )
    min_cycles: int | None = Field(
        None, ge=1, description="distilled core: selected in the last so many cycles; default all"
    )
    initial_sae: str | dict[int, str] | None = Field(
        None,
        description="cycle 0 from outside: the folder of a trained Matryoshka SAE (ours, dictionary_learning's, "
        "SAELens's), here or on the Hub (user/repo[@revision][/folder]) or, for several k, a mapping from k to folder; "
        "each is checked for model, layer, width, n_latents, groups and k",
    )
    initial_sae_any_k: bool = Field(False, description="take an initial SAE for trials of another k than its own")
    controls: tuple[Control, ...] = Field(
        ("gaussian",),
        description="cores of as many rows trained in place of the core in the last cycle; norm-matched, but for "
        "'gaussian_unit'",
    )
    control_chains: tuple[Control, ...] = Field(
        (),
        description="controls in place of the core of cycle 0 that run through all cycles, selected as the core is: "
        "what survives of rows that attribution did not select",
    )

    @property
    def attribution_parts(self) -> int:
        """Parts into which the cycles share out the attribution set."""
        return self.cycles + 1 if self.fresh_attribution else 1

    @property
    def initial_places(self) -> dict[str, str]:
        """Where the SAEs for cycle 0 are, by the setting that says so: 'distill.initial_sae', or that with a k."""
        given = self.initial_sae
        if given is None or isinstance(given, str):
            return {} if given is None else {"distill.initial_sae": given}
        return {f"distill.initial_sae.{k}": place for k, place in given.items()}

    def initial_setting(self, k: int) -> str:
        """Return the setting that says which SAE is cycle 0 of trials of `k`, as in `initial_places`."""
        return f"distill.initial_sae.{k}" if isinstance(self.initial_sae, dict) else "distill.initial_sae"

    @field_validator("initial_sae", mode="before")
    @classmethod
    def _by_k(cls, value: Any) -> Any:
        """Read the keys of a mapping as whole numbers: in JSON they are text."""
        if value is None or isinstance(value, str):
            return value
        found: dict[int, str] = {}
        for k, place in value.items() if isinstance(value, dict) else ():
            if isinstance(place, str) and place and re.fullmatch(r"[1-9]\d*", str(k)):
                found[int(k)] = place
        if not found or len(found) != len(value):
            raise ValueError(
                f"is {json.dumps(value, default=str)}; it must be a folder, or a mapping from k to folder, as "
                "{20: saes/k20, 40: saes/k40}"
            )
        return found

    @field_validator("initial_sae")
    @classmethod
    def _are_of_models(cls, value: str | dict[int, str] | None) -> str | dict[int, str] | None:
        for place in value.values() if isinstance(value, dict) else (value,):
            _of_a_model(place)
        return value

    @field_validator("controls", "control_chains")
    @classmethod
    def _none_twice(cls, controls: tuple[Control, ...]) -> tuple[Control, ...]:
        return _distinct(controls) if controls else controls

    @model_validator(mode="after")
    def _selects(self) -> "DistillSettings":
        if self.score == "trimmed_mean" and self.quantile <= 0.5:
            raise ValueError(
                f"distill.quantile is {self.quantile:g}; score 'trimmed_mean' needs a quantile in (0.5, 1]"
            )
        if self.fresh_attribution and self.intersect > 1:
            raise ValueError(
                f"distill.intersect is {self.intersect}; with distill.fresh_attribution it must be 1: either the "
                "cycles or the scores of one cycle share out the attribution set"
            )
        if self.min_cycles is not None and self.min_cycles > self.cycles + 1:
            raise ValueError(
                f"distill.min_cycles is {self.min_cycles}; it must be from 1 to {self.cycles + 1}, "
                "the selections that there are (cycle 0 included)"
            )
        return self


class TransferSettings(Section):
    """Train around one fixed core (Algorithm 3) instead of running cycles."""

    later = frozenset({"baseline_k", "baseline_budgets"})

    core: str | None = Field(
        None,
        description="core file (safetensors), or a folder with core.safetensors, here or on the Hub "
        "(user/repo[@revision][/path]); `--core` on the command line sets it",
    )
    arms: tuple[Literal["distilled", "gaussian", "gaussian_unit", "baseline"], ...] = Field(
        ("distilled", "gaussian", "baseline"),
        description="the core, norm-matched random rows, random rows of norm 1, no core at all",
    )
    core_sparsity: tuple[CoreSparsity, ...] = Field(("dense", "sparse"), description="which core variants to train")
    baseline_k: tuple[K | Literal["matched"], ...] | Literal["matched"] | None = Field(
        None,
        description="k of the baselines; default: those of the grid. A list: these in their place; 'matched' in it: "
        "when the other trials have finished, also the k that match the measured L0 of each SAE around a core. "
        "'matched' alone: those of the grid, and the k that match",
    )
    baseline_budgets: tuple[Budget, ...] = Field(
        (1.0,),
        description="training tokens of the baselines, in multiples of recipe.tokens: a set of baselines for each. "
        "distill.cycles + 2 is the FLOP of a distilled SAE together with the cycles that made its core",
    )

    _checks = field_validator("arms", "core_sparsity", "baseline_budgets")(_distinct)
    _place = field_validator("core")(_of_a_model)

    @property
    def matches_l0(self) -> bool:
        """Whether baselines are added that match the measured L0 of the SAEs around a core."""
        return "baseline" in self.arms and self.baseline_k is not None and MATCHED in self.baseline_k

    @field_validator("baseline_k", mode="before")
    @classmethod
    def _is_matched_or_listed(cls, value: Any) -> Any:
        items = [item for item in value if item != MATCHED] if isinstance(value, list | tuple) else None
        whole = items is not None and all(
            isinstance(k, int | float) and not isinstance(k, bool) and k >= 1 and float(k).is_integer() for k in items
        )
        if value is None or value == MATCHED or (whole and _distinct(tuple(value))):
            return value
        raise ValueError(
            f"is {json.dumps(value, default=str)}; it must be {MATCHED}, or a list of whole numbers of at least 1, "
            f"perhaps with {MATCHED} among them"
        )

    @model_validator(mode="after")
    def _has_something_to_match(self) -> "TransferSettings":
        if self.matches_l0 and set(self.arms) == {"baseline"}:
            raise ValueError(
                f"transfer.baseline_k is {json.dumps(self.baseline_k)}; with transfer.arms ['baseline'] there is no "
                f"core whose SAEs have an L0 to match: it must be without {MATCHED}"
            )
        return self


class SweepSettings(Section):
    """The grid: every k with every coverage, every value of the further axes and every seed is one trial."""

    later = frozenset({"axes"})

    k: tuple[K, ...] | None = Field(None, description="default: only sae.k")
    coverage: tuple[Coverage, ...] | None = Field(None, description="default: only distill.coverage")
    seeds: tuple[Seed, ...] = Field((0,), description="seeds of initialisation; each is a replica of every setting")
    data_seed: Seed = Field(0, description="seed of the order of the training data")
    data_per_seed: bool = Field(False, description="give every replica its own data order as well")
    axes: dict[str, tuple[Any, ...]] = Field(
        {},
        description="further axes: settings of other sections, each with a list of values, as in "
        "{distill.quantile: [0.99, 0.999], model.layer: [11, 12]}; each value that changes the activations has a store",
    )

    _checks = field_validator("k", "coverage", "seeds")(_distinct)

    @field_validator("axes", mode="before")
    @classmethod
    def _are_settings(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"is {json.dumps(value, default=str)}; it must be a mapping from settings to their values")
        sections: dict[str, type[BaseModel]] = {
            "model": ModelSettings,
            "corpus": CorpusSettings,
            "activations": ActivationSettings,
            "sae": SAESettings,
            "recipe": RecipeSettings,
            "distill": DistillSettings,
        }
        return read_axes(value, sections)


class ResourceSettings(Section):
    """What the experiment asks of the cluster. No result depends on it."""

    workers_per_trial: int = Field(1, ge=1, description="Train workers that share one SAE training")
    cpus_per_worker: float = Field(1, gt=0, description="CPUs of a Train worker")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of a Train worker")
    max_concurrent_trials: int | None = Field(None, ge=1, description="default: as many as fit the cluster")
    model_actors_min: int = Field(1, ge=1, description="language-model actors at least")
    model_actors_max: int = Field(1, ge=1, description="language-model actors at most; Ray Data scales between")
    cpus_per_model_actor: float = Field(1, gt=0, description="CPUs of a language-model actor")
    gpus_per_model_actor: float = Field(0, ge=0, description="GPUs of a language-model actor; fractions share a GPU")
    cpus_per_evaluation: float | None = Field(
        None, gt=0, description="CPUs of the language model that measures the loss recovered; default: as a model actor"
    )
    gpus_per_evaluation: float | None = Field(
        None, ge=0, description="GPUs of it; a fraction finds room beside trials that leave some of theirs"
    )
    cache_gb: float | None = Field(
        None,
        ge=0,
        description="GB of a machine's disk for copies of shards from a bucket, in $DMSAE_CACHE; default: a quarter of "
        "what is free",
    )
    model_batch_tokens: int = Field(4096, ge=8, description="tokens of one forward pass of a model actor")
    max_failures: int = Field(3, ge=0, description="errors without progress between them after which a trial ends")
    checkpoint_every_tokens: int = Field(50_000_000, ge=1, description="training tokens between two checkpoints")

    _checks = field_validator("gpus_per_worker", "gpus_per_model_actor", "gpus_per_evaluation")(_whole_above_one)

    @property
    def evaluation(self) -> tuple[float, float]:
        """CPUs and GPUs of the language model that measures the loss recovered."""
        cpus, gpus = self.cpus_per_evaluation, self.gpus_per_evaluation
        return (
            self.cpus_per_model_actor if cpus is None else cpus,
            self.gpus_per_model_actor if gpus is None else gpus,
        )

    @model_validator(mode="after")
    def _ordered(self) -> "ResourceSettings":
        if self.model_actors_max < self.model_actors_min:
            raise ValueError(
                f"resources.model_actors_max is {self.model_actors_max}; "
                f"it must be at least model_actors_min = {self.model_actors_min}"
            )
        return self


class TrackingSettings(Section):
    """Where MLflow records go."""

    uri: str | None = Field(None, description="MLflow server; default MLFLOW_TRACKING_URI, else a file in `output`")
    experiment: str | None = Field(None, description="MLflow experiment; default: the experiment's name")
    window_steps: int | None = Field(None, ge=1, description="steps between two points of a curve; default: steps / 50")
