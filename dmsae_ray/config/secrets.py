"""Passwords and keys belong in the environment, because a config is copied into sweep folders, records and messages."""

import re
from collections.abc import Iterator
from typing import Any

from dmsae_ray.errors import ConfigError

_AUTHORITY = re.compile(r"://([^/?#&\s]*)")
_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
_OPTION = re.compile(
    r"([?&;](?:[\w.-]*(?:secret|passw|token|credential|signature|api_?key|access_?key|account_?key|private_?key)[\w.-]*"
    r"|sig|pwd)=)([^&;#\s]+)",
    re.IGNORECASE,
)
_USER = re.compile(r"(://[^/?#\s:@]*):[^?#\s@]*@")

_INSTEAD = {
    "tracking": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or all of it as MLFLOW_TRACKING_URI)",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or the machine's role)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "hf": "HF_TOKEN",
}


def holds_secret(text: str) -> bool:
    """Return whether a URI in the text has a password before its host, or an option such as secret_key."""
    if _OPTION.search(text):
        return True
    for found in _AUTHORITY.finditer(text):
        user, at, host = found[1].rpartition("@")
        # If a secret contains a slash, the host seems to end there, and the text behind the colon is not a port.
        if (at and ":" in user) or not _PORT.fullmatch(host):
            return True
    return False


def redacted(text: str) -> str:
    """Return the text with *** in place of the passwords and keys in its URIs."""
    return _OPTION.sub(r"\1***", _USER.sub(r"\1:***@", text))


def refuse_secrets(tree: dict[str, Any]) -> None:
    """Check that no value of a config holds a password or key.

    Raises:
        ConfigError: a value does; the message names the field and what to use instead, and does not show the value.
    """
    for field, value in _texts(tree, ""):
        if holds_secret(value):
            section = field.partition(".")[0]
            scheme = re.split(r"[:+]", value, maxsplit=1)[0].lower()
            instead = _INSTEAD.get(section) or _INSTEAD.get(scheme) or "what the place's own tools read"
            raise ConfigError(f"{field} must not hold a password or key; give {instead} in the environment")


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, path)
