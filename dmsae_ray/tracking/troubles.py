"""What MLflow's errors mean, in one line."""

import re
from pathlib import Path

from dmsae_ray.config import redacted, shell_command
from dmsae_ray.errors import one_line

_MISMATCH = re.compile(r"database schema \(found version (\w+), but expected \w+\)")

_KNOWN = {
    "connection refused": "connection refused",
    "name or service not known": "name or service not known",
    "no route to host": "no route to host",
    "timed out": "timed out",
    "connection reset": "it breaks connections off",
    "closed connection without response": "it breaks connections off",
    "not a database": "not a database",
}


_BLIP = re.compile(r"connection reset|closed connection without response|too many (?:5\d\d|429) error", re.I)


def is_blip(error: BaseException) -> bool:
    """Return whether a server is there, but failed at this request: the next one may succeed."""
    return _BLIP.search(str(error)) is not None


def schema_trouble(place: object, uri: str, error: BaseException) -> str | None:
    """Return a sentence with the command that mends it, if an error of MLflow is about its schema; else None.

    Args:
        place: the database, for the sentence.
        uri: its address, for the command.
        error: what MLflow raised.
    """
    found = _MISMATCH.search(str(error))
    if found is None:
        return None
    import mlflow

    what = f"MLflow's database '{place}'"
    known = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(known.glob(f"{found[1]}_*.py")):
        command = shell_command("mlflow", "db", "upgrade", uri)
        return f"{what} is of an older MLflow; keep a copy of it, then bring it up to date with: {command}"
    return (
        f"{what} is of a newer MLflow than {mlflow.__version__}, which is installed here: install that one, or begin "
        "another file with --set tracking.uri=sqlite:////path/mlflow.db"
    )


def reason_of(error: BaseException) -> str:
    """Return the innermost message of an error, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    for known, said in _KNOWN.items():
        if known in text.lower():
            return said
    status = re.search(r"failed with error code (\d{3})|too many (\d{3}) error responses", text)
    if status and status[2]:
        return f"it answers {status[2]}"
    if status:
        meaning = {"401": ", it wants MLFLOW_TRACKING_USERNAME and _PASSWORD", "403": ", it refuses this user"}
        return f"it answers {status[1]}{meaning.get(status[1], ', not as an MLflow server does')}"
    inner = re.search(r"\((?:sqlite3|psycopg2)\.\w+\) ([^\[(]+)", text)
    text = inner.group(1).strip() if inner else text
    return one_line(redacted(text), 160)
