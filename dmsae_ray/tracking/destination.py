"""Where records go: the URI of the MLflow store, the check that it answers, and the default SQLite file."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dmsae_ray.config import Experiment, redacted
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.results import folders_of
from dmsae_ray.tracking.moved import ARTIFACTS, let_artifacts_follow
from dmsae_ray.tracking.troubles import is_blip, reason_of, schema_trouble

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

_QUOTED = set("%?#")
"""What means something else in a URI than in a path."""

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_ALLOWED = "a running server (http://host:port) or sqlite:////path/mlflow.db; leave it out to use a file in `output`"

_BLIP_SECONDS = 0.5
"""Pause before a server is asked again that is there and failed."""

_ENVIRONMENT = {
    # Our own sender repeats requests and can be stopped; MLflow's default goes on for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Destination:
    """An MLflow tracking store.

    Attributes:
        uri: http(s)://host:port, sqlite:////path/mlflow.db or another database URI that MLflow takes.
        origin: The setting that gave the URI, for error messages; 'output' if it is the file there.
    """

    uri: str
    origin: str = "tracking.uri"

    @property
    def shown(self) -> str:
        """The URI without its password."""
        return redacted(self.uri)

    @property
    def sqlite_file(self) -> Path | None:
        """The database file of a SQLite URI; None for other URIs."""
        path = self.uri.removeprefix("sqlite:///")
        if path == self.uri or not path:
            return None
        if _QUOTED & set(path):
            from sqlalchemy import make_url  # what opens the file also says which it is

            path = make_url(self.uri).database or ""
        return Path(path).absolute() if path else None

    @classmethod
    def of_file(cls, path: Path) -> "Destination":
        """Return the store in a SQLite file.

        Raises:
            ConfigError: Its path has a character that an address cannot hold.
        """
        uri = f"sqlite:///{path}"
        if _QUOTED & set(str(path)):
            from sqlalchemy import make_url
            from sqlalchemy.engine import URL

            uri = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
            if make_url(uri).database != str(path):  # SQLAlchemy before 2.1
                raise ConfigError(f"output is '{path.parent}'; MLflow's file cannot be there: leave out % and ?")
        return cls(uri, "output")

    @property
    def artifacts(self) -> str | None:
        """Where a new MLflow experiment keeps artifacts: beside a SQLite file; None if the server decides."""
        return None if self.sqlite_file is None else (self.sqlite_file.parent / ARTIFACTS).as_uri()


def destination_of(experiment: Experiment) -> Destination:
    """Return the tracking store of an experiment.

    It is `tracking.uri`, else MLFLOW_TRACKING_URI, else `mlflow.db` where the controller writes (see `Folders.home`).

    Raises:
        ConfigError: The URI is of a kind that is not supported.
    """
    return destination_at(experiment.tracking.uri, folders_of(experiment).home / "mlflow.db")


def destination_at(uri: str | None, file: Path, setting: str = "tracking.uri") -> Destination:
    """Return the tracking store at a URI, else at MLFLOW_TRACKING_URI, else in a file.

    Args:
        uri: What a person has given.
        file: The file that is used otherwise.
        setting: What it was given by, for error messages.

    Raises:
        ConfigError: The URI is of a kind that is not supported.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        found = Destination(uri, setting)
    elif environment:
        found = Destination(environment, f"{setting} (from MLFLOW_TRACKING_URI)")
    else:
        found = Destination.of_file(file)
    scheme = found.uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise ConfigError(f"{found.origin} is '{found.shown}'; give {_ALLOWED}")
    if scheme == "sqlite" and found.sqlite_file is None:
        raise ConfigError(f"{found.origin} is '{found.shown}'; it names no file: give sqlite:////path/mlflow.db")
    return found


def connect(destination: Destination, open_: "Callable[[MlflowClient], T]", timeout: float) -> T:
    """Connect to a tracking store.

    Args:
        destination: The store.
        open_: Called with the new client.
        timeout: Seconds that all of it may take.

    Returns:
        What `open_` returns.

    Raises:
        ConfigError: Nothing answers at the URI, or it cannot be written, or it refuses access.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    deadline = time.monotonic() + timeout - _BLIP_SECONDS

    def work() -> T:
        with _database(destination):
            if destination.origin == "output" and destination.sqlite_file is not None:
                let_artifacts_follow(destination.sqlite_file)
            while True:
                try:
                    opened = open_(_client(destination))
                    break
                except Exception as error:
                    if not is_blip(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(_BLIP_SECONDS)
        _remove_folder_of_quoted_name(destination)
        return opened

    try:
        return _within(timeout, work)
    except DmsaeError:
        raise
    except TimeoutError:
        reason = f"no answer within {timeout:g} s"
    except Exception as error:
        trouble = schema_trouble(destination.sqlite_file or destination.shown, destination.shown, error)
        if trouble is not None:
            raise ConfigError(trouble) from None
        reason = reason_of(error)
    if destination.origin == "output":
        raise ConfigError(f"output: MLflow's database '{destination.sqlite_file}' does not work ({reason})")
    raise ConfigError(f"{destination.origin} is '{destination.shown}'; it does not work ({reason}): give {_ALLOWED}")


def _client(destination: Destination) -> "MlflowClient":
    from mlflow import MlflowClient

    # After the import, which sets the levels. Our own log reports failures, once each.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    for name in ("alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=destination.uri)


@contextlib.contextmanager
def _database(destination: Destination) -> Iterator[None]:
    """Make the folder of a SQLite file, and let one process at a time create or migrate the file."""
    path = destination.sqlite_file
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "ab") as lock:
        with contextlib.suppress(ImportError, OSError):  # no locks here: MLflow's own must be enough
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        open(path, "ab").close()  # fails at once if it cannot be written; MLflow would retry for a minute
        yield


def _remove_folder_of_quoted_name(destination: Destination) -> None:
    """Remove the empty folder that MLflow makes where it takes an address, with its quotes, for a path."""
    file, taken = destination.sqlite_file, Path(destination.uri.removeprefix("sqlite:///"))
    if file is not None and taken.parent != file.parent:
        with contextlib.suppress(OSError):
            taken.parent.rmdir()


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Return the result of `work`, which runs in a thread.

    Raises:
        TimeoutError: It takes longer than `seconds`; the thread is then left to itself.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="dmsae-tracking-start", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
