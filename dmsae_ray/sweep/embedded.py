"""What a Ray cluster that is this machine alone needs of it: a token of its own, and a short folder for its sockets."""

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from dmsae_ray.errors import ConfigError

_LONGEST = 107
"""Bytes of the path of a Unix socket, at most."""
_BELOW = 1 + len("ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""What Ray puts behind its folder for temporary files, at most."""
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def set_token() -> None:
    """Give Ray a token through the environment where there is none: it would write one to the home."""
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not given and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def socket_folder() -> str | None:
    """Return a folder for Ray's temporary files that can hold its sockets; None where Ray's own choice can.

    A folder that is made here is removed when the process ends.

    Raises:
        ConfigError: $TMPDIR is no folder that Ray can use, and no other one can be written.
    """
    usual = next((os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "/tmp")
    if _holds_sockets(usual):
        return None
    for place in _SHORT:
        try:
            made = tempfile.mkdtemp(prefix="dmsae", dir=place)
        except OSError:
            continue
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return str(Path(made))
    raise ConfigError(
        f"TMPDIR is '{usual}'; Ray needs a folder that can be written, of at most {_LONGEST - _BELOW} bytes "
        "of ASCII, given by its whole path: set TMPDIR to such a one"
    )


def _holds_sockets(place: str) -> bool:
    """Return whether Ray can have its sockets there: it takes a path as it stands, also an empty or a relative one."""
    short = place.isascii() and len(place.rstrip("/")) + _BELOW <= _LONGEST
    return short and os.path.isabs(place) and os.path.isdir(place) and os.access(place, os.W_OK)
