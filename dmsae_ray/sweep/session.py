"""The Ray session of a command: joined or started, without Ray's chatter unless it is asked for; what it can hold."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmsae_ray.config import NEEDED
from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.plan import Cluster, cluster_of_nodes, cluster_of_yaml

NAMESPACE = "dmsae"
EMBEDDED_OBJECT_STORE_BYTES = 512 * 2**20
"""Activations go through files, not through Ray's object store; what remains is small."""

BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""Where Ray's launcher leaves its file on the head node that it started."""
LAUNCHER_PORT = 6379


@contextlib.contextmanager
def ray_session(address: str | None, *, log: Path, verbose: bool = False) -> Iterator[None]:
    """Join the cluster at `address`, or start one on this machine for as long as the context lasts.

    What Ray's native code writes to the error stream goes to the file `log`, unless `verbose`.

    Raises:
        ConfigError: nothing answers at `address`.
    """
    import ray

    level = logging.INFO if verbose else logging.ERROR
    on_terminate = signal.getsignal(signal.SIGTERM)
    with contextlib.nullcontext() if verbose else _native_errors_to(log):
        _init(address, level, verbose)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray's own ends the process at once
        _quiet_loggers(verbose)
        try:
            yield
        finally:
            ray.shutdown()


def cluster_of_ray() -> Cluster:
    """The cluster of the current Ray session; on a head node that Ray's launcher started, at its largest."""
    import ray

    launched = Path(BOOTSTRAP).expanduser()
    address = ray.get_runtime_context().gcs_address
    # An embedded session on that machine has a port of its own.
    if launched.is_file() and address.endswith(f":{LAUNCHER_PORT}"):
        return cluster_of_yaml(launched)
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return cluster_of_nodes([node["Resources"] for node in nodes if node["Alive"]])


def borrowed_cpus() -> float:
    """CPUs of the current session that are counted and not there: one, where it is the embedded cluster."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    cores = os.cpu_count() or 1
    return 1.0 if len(nodes) == 1 and nodes[0]["Resources"].get("CPU") == cores + 1 else 0.0


def _init(address: str | None, level: int, verbose: bool) -> None:
    import ray

    if address is None:
        # One logical core more than there are: drivers and the idle language model are booked on it.
        ray.init(
            address="local",
            namespace=NAMESPACE,
            num_cpus=(os.cpu_count() or 1) + 1,
            object_store_memory=EMBEDDED_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=level,
        )
    else:
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=verbose,
                logging_level=level,
                runtime_env={"env_vars": NEEDED},
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--address is '{address}'; no Ray cluster answers there ({one_line(error, 200)}); "
                "leave it out to use this machine, or give 'auto' on the head node"
            ) from None


@contextlib.contextmanager
def _native_errors_to(log: Path) -> Iterator[None]:
    """Send file descriptor 2 to a file; Python's own sys.stderr stays where it was."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    original, python_stderr = os.dup(2), sys.stderr
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(os.dup(original), "w", buffering=1)
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = python_stderr
        os.dup2(original, 2)
        os.close(original)


def _quiet_loggers(verbose: bool) -> None:
    """Ray configures its loggers when it is imported; set their level after that."""
    if verbose:
        return
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("ray", "transformers", "mlflow", "alembic", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
