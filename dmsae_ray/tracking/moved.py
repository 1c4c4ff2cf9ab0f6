"""Where MLflow's files are, after an output folder was moved or copied.

MLflow keeps absolute addresses in its database. A folder that has moved would be read, and written, at its old place.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

ARTIFACTS = "mlartifacts"
"""Folder of the files that runs have, beside the database."""

_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def let_artifacts_follow(database: Path) -> None:
    """Make all addresses of files that lay beside this database begin with the place where it is now.

    Only those of experiments that keep their files in `mlartifacts` beside the database are changed.
    """
    here = (database.parent / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(database, timeout=30)) as opened, opened:
        tables = {name for (name,) in opened.execute("select name from sqlite_master where type = 'table'")}
        if "experiments" not in tables:
            return
        found = opened.execute("select distinct artifact_location from experiments").fetchall()
        for (old,) in found:
            if old is None or old == here or not old.startswith("file://") or not old.endswith(f"/{ARTIFACTS}"):
                continue
            for table, column in _PLACES:
                if table in tables:
                    opened.execute(
                        f"update {table} set {column} = ? || substr({column}, ?)"
                        f" where {column} = ? or substr({column}, 1, ?) = ?",
                        (here, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
