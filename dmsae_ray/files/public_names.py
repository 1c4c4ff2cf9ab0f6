"""What a place may be called where other people read it."""

import re

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_public_name(place: str) -> bool:
    """Return whether a name means the same to everyone: an id of the Hub, or a URI hf://."""
    return place.startswith("hf://") or _HUB_ID.fullmatch(place) is not None


def public_name(place: str) -> str:
    """Return a name that says nothing of a machine or a bucket: of a path or another URI its last part."""
    if is_public_name(place):
        return place
    return re.split(r"[/\\]", re.sub(r"[?#].*", "", place).rstrip("/\\"))[-1]
