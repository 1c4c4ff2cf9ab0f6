"""Where a core is: a file, a folder that holds core.safetensors, or a place on the Hub. Nothing here needs torch."""

import os
from dataclasses import replace
from pathlib import Path

from dmsae_ray.files import HubFiles, HubPlace, fetch_from_hub

CORE_FILE = "core.safetensors"
_SUFFIX = ".safetensors"


def core_file(place: str | os.PathLike[str]) -> Path:
    """Return the file of a core that a path on this machine means: itself, or core.safetensors in a folder."""
    path = Path(place).expanduser()
    return path / CORE_FILE if path.is_dir() else path


def core_on_hub(place: HubPlace) -> tuple[HubPlace, tuple[tuple[str], ...]]:
    """Return the folder of a core on the Hub, and the name of its file, as `files.fetch_from_hub` takes them."""
    if not place.path.endswith(_SUFFIX):
        return place, ((CORE_FILE,),)
    folder, _, name = place.path.rpartition("/")
    return replace(place, path=folder), ((name,),)


def fetch_core(place: HubPlace, what: str) -> HubFiles:
    """Download a core from the Hub, or find it in the cache of the Hub's client; errors as `files.fetch_from_hub`.

    Args:
        place: A file, as user/repo/name.safetensors, or a folder that holds core.safetensors, as user/repo.
        what: What is read, for messages.
    """
    folder, kinds = core_on_hub(place)
    return fetch_from_hub(folder, kinds, what)
