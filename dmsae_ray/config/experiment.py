"""The whole tree of settings: one YAML file is one `Experiment`, validated in full before anything starts.

The sections `model`, `corpus`, `activations`, `sae`, `recipe`, `distill`, `transfer` and `sweep` decide the results.
`resources`, `tracking` and `output` say where and how the experiment runs; no result depends on them.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from dmsae_ray.config.axes import (
    OF_STORES,
    Axes,
    axes_label,
    axes_name,
    check_axes_of_transfers,
    frozen,
    store_label,
)
from dmsae_ray.config.messages import describe_validation_error
from dmsae_ray.config.preset import apply_preset
from dmsae_ray.config.secrets import refuse_secrets
from dmsae_ray.config.sections import (
    MATCHED,
    NO_FILTERS,
    ActivationSettings,
    CorpusSettings,
    DistillSettings,
    ModelSettings,
    RecipeSettings,
    ResourceSettings,
    SAESettings,
    Section,
    Seed,
    SweepSettings,
    TrackingSettings,
    TransferSettings,
)
from dmsae_ray.config.text import apply_override, described, read_yaml
from dmsae_ray.errors import ConfigError
from dmsae_ray.files import HUB_SCHEME, hub_place

_SECTIONS = (
    "model",
    "corpus",
    "activations",
    "sae",
    "recipe",
    "distill",
    "transfer",
    "sweep",
    "resources",
    "tracking",
)

METHOD_VERSION = 2
"""Raised where what a result means changes: a sweep of an older version is read, and does not go on.

2: calibrated thresholds, losses that spare what training left out, matched controls.
"""
_SQLITE = "sqlite:///"
_APART: dict[str, Any] = {"output": True, "resources": True, "tracking": True, "activations": {"mode"}}
"""What no result depends on."""


class Experiment(Section):
    """One experiment: all its settings, checked one by one and together."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="name of the sweep and of its MLflow experiment",
    )
    output: str = Field(
        "dmsae-runs", min_length=1, description="folder (local or shared) of stores, cycles, sweeps, the MLflow file"
    )
    seed: Seed = Field(0, description="seed of `dmsae distill`, which runs a single setting")
    model: ModelSettings = ModelSettings()
    corpus: CorpusSettings = CorpusSettings()
    activations: ActivationSettings = ActivationSettings()
    sae: SAESettings = SAESettings()
    recipe: RecipeSettings = RecipeSettings()
    distill: DistillSettings = DistillSettings()
    transfer: TransferSettings | None = Field(
        None, description="present: train around a fixed core instead of running cycles"
    )
    sweep: SweepSettings = SweepSettings()
    resources: ResourceSettings = ResourceSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="before")
    @classmethod
    def _recipe_by_name(cls, data: Any) -> Any:
        """Read `recipe: saebench` as `recipe: {name: saebench}`: token filters off, threshold a running mean."""
        if not isinstance(data, dict):
            return data
        # A section whose lines are all commented out is null in YAML: take its defaults (a null `transfer` is none).
        data = {name: value for name, value in data.items() if value is not None or name not in _SECTIONS}
        if isinstance(data.get("recipe"), str):
            data["recipe"] = {"name": data["recipe"]}
        recipe = data.get("recipe")
        if isinstance(recipe, dict) and recipe.get("name") == "saebench":
            data["recipe"] = {"threshold": "running_mean", **recipe}
            filters = data.get("activations") or {}
            if isinstance(filters, dict):
                for name, value in NO_FILTERS.items():
                    if filters.get(name, value) != value:
                        raise ValueError(f"recipe 'saebench' trains on all tokens; leave out activations.{name}")
                data["activations"] = {**filters, **NO_FILTERS}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        for k in self.ks:
            if k >= self.sae.n_latents:
                where = "sweep.k" if self.sweep.k else "sae.k"
                raise ValueError(f"{where} is {k}; it must be below sae.n_latents = {self.sae.n_latents}")
        self._check_baselines()
        if self.distill.pool_groups > len(self.sae.groups):
            raise ValueError(
                f"distill.pool_groups is {self.distill.pool_groups}; there are {len(self.sae.groups)} groups"
            )
        size, pool = self.distill.core_size, sum(self.sae.groups[: self.distill.pool_groups])
        if size is not None and size > pool:
            raise ValueError(
                f"distill.core_size is {size}; it must be at most {pool}, the latents of the first "
                f"distill.pool_groups = {self.distill.pool_groups} groups"
            )
        if size is not None and len(self.coverages) > 1:
            raise ValueError(
                f"distill.core_size is {size}, in place of a coverage; leave out sweep.coverage {list(self.coverages)}"
            )
        parts = max(self.distill.intersect, self.distill.attribution_parts)
        if self.corpus.attribution_tokens < 16 * parts:
            raise ValueError(
                f"corpus.attribution_tokens is {self.corpus.attribution_tokens}; cut into {parts} parts "
                f"(distill.intersect, distill.fresh_attribution) it must be at least {16 * parts}"
            )
        weights = self.recipe.group_weights
        if weights is not None and len(weights) != len(self.sae.groups):
            raise ValueError(f"recipe.group_weights has {len(weights)} values; there are {len(self.sae.groups)} groups")
        if self.activations.shard_tokens < self.corpus.context:
            raise ValueError(
                f"activations.shard_tokens is {self.activations.shard_tokens}; "
                f"it must be at least one context, corpus.context = {self.corpus.context}"
            )
        if self.recipe.batch_size > self.corpus.tokens:
            raise ValueError(
                f"recipe.batch_size is {self.recipe.batch_size}; corpus.tokens is only {self.corpus.tokens}"
            )
        return self

    @model_validator(mode="after")
    def _axes_fit(self) -> "Experiment":
        """Check every point of the further axes as an experiment of its own."""
        if not self.sweep.axes:
            return self
        if self.transfer is not None:
            try:
                check_axes_of_transfers(self.sweep.axes)
            except ValueError as error:
                raise ValueError(f"sweep.axes {error}") from None
        known: dict[str, Axes] = {}
        for axes in self.points:
            label = axes_label(axes)
            try:
                at = self.at(axes)
            except ConfigError as error:
                raise ValueError(f"sweep.axes has {label}: {error}") from None
            # Two spellings of one thing, or names that are one where capitals do not count.
            for what in (at.digest(), f"name {axes_name(axes).casefold()}", f"label {label}"):
                if known.setdefault(what, axes) != axes:
                    raise ValueError(
                        f"sweep.axes has {axes_label(known[what])} and {label}, which cannot be told apart"
                    )
        return self

    def _check_baselines(self) -> None:
        for k in self.baseline_ks:
            if k >= self.sae.n_latents:
                raise ValueError(f"transfer.baseline_k has {k}; it must be below sae.n_latents = {self.sae.n_latents}")
        for budget in () if self.transfer is None else self.transfer.baseline_budgets:
            try:
                self.recipe.times(budget)
            except ValidationError as error:
                said = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"transfer.baseline_budgets has {budget:g}, too few tokens: {said}") from None

    @property
    def ks(self) -> tuple[int, ...]:
        """Values of k in the grid."""
        return self.sweep.k or (self.sae.k,)

    @property
    def baseline_ks(self) -> tuple[int, ...]:
        """Values of k of a transfer's baselines, without those that match what is measured."""
        asked = None if self.transfer is None else self.transfer.baseline_k
        if asked is None or isinstance(asked, str):
            return self.ks
        return tuple(k for k in asked if not isinstance(k, str))

    @property
    def coverages(self) -> tuple[float, ...]:
        """Values of the coverage in the grid."""
        return self.sweep.coverage or (self.distill.coverage,)

    @property
    def points(self) -> tuple[Axes, ...]:
        """The points of the further axes, each with one value of every axis; one without any axis if there is none."""
        listed = [[(path, frozen(value)) for value in values] for path, values in self.sweep.axes.items()]
        return tuple(product(*listed))

    def at(self, axes: Axes) -> "Experiment":
        """Return the experiment at a point of the further axes: with these values, and without axes.

        An axis that is not among them has its first value.

        Raises:
            ConfigError: the values do not fit.
        """
        if not axes and not self.sweep.axes:
            return self
        tree = self.model_dump(mode="json")
        tree["sweep"]["axes"] = {}
        for path, value in {**{path: values[0] for path, values in self.sweep.axes.items()}, **dict(axes)}.items():
            section, _, name = path.partition(".")
            tree[section][name] = value
        return parse_experiment(tree)

    def parts(self) -> tuple["Experiment", ...]:
        """Return the sweep in parts that read one store each, in the order in which they run.

        The settings of `model`, `corpus` and `activations` that are axes have one value in a part. Of a sweep without
        such axes it is the one part.
        """
        axes = self.sweep.axes
        of_stores = {path: values for path, values in axes.items() if path.partition(".")[0] in OF_STORES}
        found = []
        for point in product(*([(path, value) for value in values] for path, values in of_stores.items())):
            tree = self.model_dump(mode="json")
            for path, value in point:
                section, _, name = path.partition(".")
                tree[section][name] = value
                tree["sweep"]["axes"][path] = [value]
            found.append(parse_experiment(tree) if point else self)
        return tuple(found)

    @property
    def store_label(self) -> str:
        """Which store a part reads, as 'layer=11'; empty where a sweep has one store."""
        return store_label(self.points[0])

    def digest(self, version: int = METHOD_VERSION) -> str:
        """Return a hash of all settings that results depend on, and of the version of the method.

        It leaves out `output`, `resources`, `tracking` and `activations.mode`.

        Args:
            version: the version by which a sweep was begun; 1 is that of 0.1.0.
        """
        with_later = ("corpus", "sae", "recipe", "distill", "sweep", *(() if self.transfer is None else ("transfer",)))
        sections = {name: getattr(self, name).identity() for name in with_later}
        tree = {**self.model_dump(mode="json", exclude=_APART), **sections}
        tree |= {"method": version} if version > 1 else {}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def shared_settings(self) -> dict[str, Any]:
        """Return the settings that results depend on and all trials of a grid share, by dotted name.

        What a trial's own name says is left out: k, coverage and seed, k and budget of the baselines, and the values of
        further axes; which axes there are is not.
        """
        own = {"seed", "sae.k", "sweep.k", "sweep.coverage", "sweep.seeds"}
        own |= {"transfer.baseline_k", "transfer.baseline_budgets"}
        own |= {"distill.coverage"} if self.transfer is None else set()
        own |= {"sweep.axes", *self.sweep.axes}
        tree = self.model_dump(mode="json", exclude={**_APART, "sweep": {"axes"}})
        shared = {name: value for name, value in _flat(tree) if name not in own}
        return {**shared, **({"sweep.axes": sorted(self.sweep.axes)} if self.sweep.axes else {})}

    def with_grid_of(self, other: "Experiment") -> "Experiment":
        """Return this experiment with the values of another one's grid beside its own."""

        def union(own: tuple[Any, ...], more: tuple[Any, ...]) -> list[Any]:
            return [*own, *(value for value in more if value not in own)]

        tree = self.model_dump(mode="json")
        tree["sweep"]["seeds"] = union(self.sweep.seeds, other.sweep.seeds)
        for name, own, more in (("k", self.ks, other.ks), ("coverage", self.coverages, other.coverages)):
            both = union(own, more)
            if len(both) > len(own):
                tree["sweep"][name] = both
        axes = self.sweep.axes
        if axes.keys() == other.sweep.axes.keys():
            tree["sweep"]["axes"] = {path: union(axes[path], other.sweep.axes[path]) for path in axes}
        if self.transfer is not None and other.transfer is not None:
            mine, theirs = self.transfer, other.transfer
            tree["transfer"]["baseline_budgets"] = union(mine.baseline_budgets, theirs.baseline_budgets)
            if mine.baseline_k != theirs.baseline_k or isinstance(mine.baseline_k, tuple):
                matched = [MATCHED] if mine.matches_l0 or theirs.matches_l0 else []
                tree["transfer"]["baseline_k"] = [*union(self.baseline_ks, other.baseline_ks), *matched]
        return parse_experiment(tree)

    def with_baselines(self, more: tuple[int, ...]) -> "Experiment":
        """Return a transfer whose baselines have the k that are known and `more`; none are matched then."""
        tree = self.model_dump(mode="json")
        tree["transfer"]["baseline_k"] = [*self.baseline_ks, *more]
        return parse_experiment(tree)

    def single(self) -> "Experiment":
        """Return the one setting that `dmsae distill` runs: sae.k, distill.coverage and seed.

        If a file gives only a grid for k, for the coverage or for a further axis, the first value of the grid is taken.
        """
        tree = self.model_dump(mode="json")
        for section, name in (("sae", "k"), ("distill", "coverage")):
            grid = tree["sweep"][name]
            if grid and name not in getattr(self, section).model_fields_set:
                tree[section][name] = grid[0]
            tree["sweep"][name] = None
        for path, values in self.sweep.axes.items():
            section, _, name = path.partition(".")
            if name not in getattr(self, section).model_fields_set:
                tree[section][name] = values[0]
        tree["sweep"] |= {"seeds": [self.seed], "axes": {}}
        return parse_experiment(tree)

    def located(self) -> "Experiment":
        """Return the experiment with absolute local paths, because workers run in other folders than the command.

        Places on the Hub get hf:// in front: a folder of such a name may be where the sweep goes on.
        """
        update: dict[str, Any] = {"output": _located(self.output)}
        if self.corpus.source not in ("stdlib", "huggingface"):
            update["corpus"] = self.corpus.model_copy(update={"path": _located(str(self.corpus.path))})
        if self.model.name != "tiny" and Path(self.model.name).expanduser().is_dir():
            update["model"] = self.model.model_copy(update={"name": _located(self.model.name)})
        if self.distill.initial_sae:
            given = self.distill.initial_sae
            initial_sae: str | dict[int, str] = (
                _given(given) if isinstance(given, str) else {k: _given(place) for k, place in given.items()}
            )
            update["distill"] = self.distill.model_copy(update={"initial_sae": initial_sae})
        if self.transfer and self.transfer.core:
            update["transfer"] = self.transfer.model_copy(update={"core": _given(self.transfer.core)})
        if self.sweep.axes:
            axes = {
                path: tuple(_located_value(self, path, v) for v in values) for path, values in self.sweep.axes.items()
            }
            update["sweep"] = self.sweep.model_copy(update={"axes": axes})
        if self.tracking.uri:
            update["tracking"] = self.tracking.model_copy(update={"uri": _located_database(self.tracking.uri)})
        return self.model_copy(update=update)

    def described(self) -> str:
        """Return the same settings as `to_yaml`, with the meaning of each setting as a comment."""
        return described(self)

    def to_yaml(self) -> str:
        """Return the whole tree, with defaults, as YAML that loads to an equal experiment."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def load_experiment(
    path: str | Path, overrides: tuple[str, ...] | list[str] = (), preset: str | None = None
) -> Experiment:
    """Read an experiment from a YAML file, apply a preset and then overrides.

    Local paths in the file are relative to the working directory; the result holds absolute paths.

    Args:
        path: the YAML file.
        overrides: texts `dotted.path=value`; see `text.apply_override`.
        preset: see `preset.apply_preset`; None: the file as it is.

    Raises:
        ConfigError: a setting is wrong; one line that names the field, its value and what is allowed.
    """
    tree = read_yaml(path)
    if preset is not None:
        apply_preset(tree, preset)
    for override in overrides:
        apply_override(tree, override, Experiment)
    return parse_experiment(tree).located()


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _located_value(experiment: Experiment, path: str, value: Any) -> Any:
    """Return a value of a further axis as `Experiment.located` has it."""
    if path == "model.name" and value != "tiny" and Path(value).expanduser().is_dir():
        return _located(value)
    if path == "corpus.path" and experiment.corpus.source not in ("stdlib", "huggingface"):
        return _located(str(value))
    return value


def _located(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _given(place: str) -> str:
    found = hub_place(place)
    return _located(place) if found is None else f"{HUB_SCHEME}{found}"  # a path to nobody, wherever it is read again


def _located_database(uri: str) -> str:
    path = uri.removeprefix(_SQLITE)
    if path == uri or not path or path.startswith("/"):
        return uri
    # In an address the path is quoted already; the folder that is put before it is not.
    folder = str(Path.home() if path.startswith("~/") else Path.cwd()).replace("%", "%25").replace("?", "%3F")
    return f"{_SQLITE}{folder}/{path.removeprefix('~/')}"


def parse_experiment(tree: dict[str, Any]) -> Experiment:
    """Validate a mapping as an experiment.

    Raises:
        ConfigError: a setting is wrong, or holds a password or key; one line that says which.
    """
    refuse_secrets(tree)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, Experiment)) from None
