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
    """Return a folder for Ray's temporary files whose sockets have paths that are short enough; None for Ray's own.

    A folder that is made here is removed when the process ends.

    Raises:
        ConfigError: $TMPDIR is too long, and no other folder can be written.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(usual.rstrip("/"))) + _BELOW <= _LONGEST and os.access(usual, os.W_OK):
        return None
    for place in _SHORT:
        try:
            made = tempfile.mkdtemp(prefix="dmsae", dir=place)
        except OSError:
            continue
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return str(Path(made))
    raise ConfigError(
        f"TMPDIR is '{usual}'; Ray needs a folder that can be written, of at most {_LONGEST - _BELOW} bytes: "
        "set TMPDIR to a shorter one"
    )
