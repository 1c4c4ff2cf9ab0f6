"""An SAE of any format that this room reads: which files it has, how it is loaded, and what is noted of its place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmsae_ray.errors import DataError
from dmsae_ray.files import fetch_from_hub, hub_place
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.dictionary_learning import load_dictionary_learning
from dmsae_ray.sae.files import load_sae, read_json
from dmsae_ray.sae.layouts import CONFIG, SAE_FILES, SAELENS_CONFIG
from dmsae_ray.sae.saelens import load_saelens

_SAELENS_MODELS = {"gpt2-small": "gpt2"}
"""Names of models in SAELens that are not the end of their Hub id."""
_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)|model\.layers\.(\d+)")


_NO_STREAM = re.compile(r"mlp|att(e?n|ention)|resid_(pre|mid)", re.IGNORECASE)
"""What dictionary_learning's users call places that are not the output of a block."""


@dataclass(frozen=True)
class NotedPlace:
    """What the files of an SAE say of the activations that it was trained on; None for what they do not say.

    Attributes:
        model: Name of the language model, with or without its organisation, or a path.
        layer: The block after which the residual stream was read.
        elsewhere: A hook that is not the residual stream between two blocks.
    """

    model: str | None = None
    layer: int | None = None
    elsewhere: str | None = None


def sae_folder(place: str, what: str) -> Path:
    """Return the folder of an SAE on this machine; one on the Hub is downloaded.

    Args:
        place: A local folder, or a place on the Hub, as user/repo[@revision][/folder].
        what: What is read, for messages, as "SAE 'user/repo'".

    Raises:
        ConfigError: The Hub has no such files for this login.
        DataError: The Hub cannot be reached.
        TransientError: The Hub does not answer.
    """
    on_hub = hub_place(place)
    return Path(place).expanduser() if on_hub is None else fetch_from_hub(on_hub, SAE_FILES, what).folder


def load_any_sae(folder: Path, *, k: int) -> MatryoshkaSAE:
    """Load an SAE of ours, of dictionary_learning (SAEBench) or of SAELens.

    Args:
        folder: Holds the files of one of the formats.
        k: Target L0 where a folder of SAELens does not say it.

    Raises:
        DataError: A file is missing, truncated or of another kind, or contradicts another.
    """
    if is_saelens(folder):
        return load_saelens(folder, k=k)
    return load_dictionary_learning(folder) if "trainer" in read_json(folder / CONFIG) else load_sae(folder)


def is_saelens(folder: Path) -> bool:
    """Return whether a folder holds SAELens's format, and not one of those with a config.json."""
    return not (folder / CONFIG).is_file() and (folder / SAELENS_CONFIG).is_file()


def noted_place(folder: Path) -> NotedPlace:
    """Return what the files of an SAE say of the place where it was trained.

    Raises:
        DataError: The configuration is missing, or is not JSON.
    """
    if is_saelens(folder):
        config = read_json(folder / SAELENS_CONFIG)
        return _noted_by_saelens({**config, **_mapping(config.get("metadata"))})
    config = read_json(folder / CONFIG)
    trainer = config.get("trainer")
    said = _mapping(config.get("extra")) if trainer is None else _mapping(trainer)
    model, layer = said.get("model" if trainer is None else "lm_name"), said.get("layer")
    for name, value, kind in (("model", model, str), ("layer", layer, int)):
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise DataError(f"{folder / CONFIG}: {name} is {value!r}, must be a {'text' if kind is str else 'number'}")
    read = str(said.get("submodule_name"))
    return NotedPlace(model, layer, elsewhere=read if _NO_STREAM.search(read) else None)


def _noted_by_saelens(said: Mapping[str, Any]) -> NotedPlace:
    model, hook = said.get("model_name"), said.get("hook_name")
    model = _SAELENS_MODELS.get(model, model) if isinstance(model, str) else None
    if not isinstance(hook, str):
        return NotedPlace(model)
    found = _HOOK.fullmatch(hook)
    if found is None:
        return NotedPlace(model, elsewhere=hook)
    before = found[2] == "pre"  # what enters a block is what left the one before
    return NotedPlace(model, int(found[1] or found[3]) - before)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
