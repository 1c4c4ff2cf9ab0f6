"""A journal without most of its curves: a person who asks how far a sweep is does not wait until all is parsed."""

import json
from collections import deque
from pathlib import Path

from dmsae_ray.errors import DataError
from dmsae_ray.tracking.journal import Record
from dmsae_ray.tracking.names import CURVE

_CURVE = f'"kind":"metrics","key":"{CURVE}"'.encode()
_RUN = b'"trial":'
_FIRST, _LAST = 2, 6
"""Windows of each training that are read: at its begin and at its end, as far as that is."""
_HEAD = 1024
"""Bytes of a line within which its kind stands."""


def read_outline(path: str | Path) -> list[Record]:
    """Return the records of the journal at `path`, in their order, of each curve only its begin and its end.

    The journal may be in use; nothing is locked. There are no records if there is no such file.

    Raises:
        DataError: A line other than the last one cannot be read.
    """
    lines: list[bytes] = []
    curves: dict[bytes, tuple[list[bytes], deque[bytes]]] = {}
    if not Path(path).is_file():
        return []
    with open(path, "rb") as file:
        next(file, b"")  # it names the journal
        for line in file:
            kind = line.find(_CURVE, 0, _HEAD)
            if kind < 0:
                lines.append(line)
                continue
            run = line[line.find(_RUN) : kind]
            curve = curves.get(run)
            if curve is None:
                curve = curves[run] = ([], deque(maxlen=_LAST))
            (curve[0] if len(curve[0]) < _FIRST else curve[1]).append(line)
    for first, last in curves.values():
        lines += [*first, *last]
    found = [_record(line, path) for line in lines if line.endswith(b"\n")]  # the last one may be half written
    return sorted(found, key=lambda record: record.seq)


def _record(line: bytes, path: str | Path) -> Record:
    try:
        return Record.from_object(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"journal '{path}' is corrupt; move it away to log anew") from None
