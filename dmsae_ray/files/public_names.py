"""What a place may be called where other people read it."""

import re
from pathlib import Path

from dmsae_ray.files.hub import HUB_SCHEME, hub_place


def is_public_name(place: str) -> bool:
    """Return whether a name means the same to everyone: an id or a place of the Hub, or a word such as 'gpt2'."""
    return place.startswith(HUB_SCHEME) or hub_place(place) is not None or re.fullmatch(r"\w[\w.-]*", place) is not None


def is_hub_id(name: str) -> bool:
    """Return whether a name is an id of the Hub, as 'user/name' or 'gpt2'; a path on this machine never is."""
    place = hub_place(name)
    if place is None:
        return re.fullmatch(r"\w[\w.-]*", name, re.ASCII) is not None and not Path(name).exists()
    return not name.startswith(HUB_SCHEME) and place.revision is None and not place.path


def public_name(place: str) -> str:
    """Return a name that says nothing of a machine or a bucket: of a path or another URI its last part."""
    if is_public_name(place):
        return place
    return re.split(r"[/\\]", re.sub(r"[?#].*", "", place).rstrip("/\\"))[-1]
