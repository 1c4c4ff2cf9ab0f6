"""What a place may be called where other people read it."""

import re

from dmsae_ray.files.hub import HUB_SCHEME, hub_place


def is_public_name(place: str) -> bool:
    """Return whether a name means the same to everyone: an id or a place of the Hub, or a word such as 'gpt2'."""
    return place.startswith(HUB_SCHEME) or hub_place(place) is not None or re.fullmatch(r"\w[\w.-]*", place) is not None


def public_name(place: str) -> str:
    """Return a name that says nothing of a machine or a bucket: of a path or another URI its last part."""
    if is_public_name(place):
        return place
    return re.split(r"[/\\]", re.sub(r"[?#].*", "", place).rstrip("/\\"))[-1]
