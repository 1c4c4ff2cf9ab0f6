"""The Ray session of a command: join or start it, hide Ray's own messages by default, and say what it can hold."""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmsae_ray.config import NEEDED, ON_THIS_MACHINE, usable_cpus
from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.harvest import end_datasets
from dmsae_ray.plan import Cluster, cluster_of_groups, cluster_of_nodes, cluster_of_yaml
from dmsae_ray.sweep.embedded import set_token, socket_folder

NAMESPACE = "dmsae"
EMBEDDED_OBJECT_STORE_BYTES = 512 * 2**20
"""Size of the object store on one machine: small, because activations go through files, not through Ray."""

BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""Where Ray's cluster launcher leaves its file on a head node that it started."""
LAUNCHER_PORT = 6379
_ANSWER_SECONDS = 5.0
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # a frame of HTTP/2: length 0 (3 bytes), type 4, flags, stream 0 (4 bytes)


@contextlib.contextmanager
def ray_session(address: str | None, *, log: Path, verbose: bool = False) -> Iterator[None]:
    """Join the cluster at `address`, or start one on this machine, for as long as the context lasts.

    A process that has a Ray session already keeps it: it is used, and left as it is.

    Args:
        address: Address of a cluster; None starts one on this machine.
        log: File for what Ray's native code writes to the error stream, unless `verbose`.
        verbose: Show Ray's own messages.

    Raises:
        ConfigError: No cluster answers at `address`, or it has another version of Ray or Python.
    """
    import ray

    if ray.is_initialized():
        _quiet_loggers(verbose)
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    on_terminate = signal.getsignal(signal.SIGTERM)
    with contextlib.nullcontext() if verbose else _quiet(log):
        _init(address, level, verbose)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray's own handler ends the process at once
        _quiet_loggers(verbose)
        try:
            yield
        finally:
            end_datasets()
            ray.shutdown()


def cluster_of_ray(largest: Cluster | None = None) -> Cluster:
    """Return the cluster of the current Ray session at its largest, with the memory that its head has.

    Args:
        largest: What it may become, if a person says it. Else: what Ray's launcher was told, on a head node that it
            started; what an autoscaler has reported to Ray; or the nodes that run now.
    """
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    running = cluster_of_nodes([node["Resources"] for node in nodes if node["Alive"]])
    found = largest or _launched() or _reported() or running
    return replace(found, head_bytes=min(found.head_bytes, running.head_bytes))


def _launched() -> Cluster | None:
    import ray

    file = Path(BOOTSTRAP).expanduser()
    # A session started by us on the head node has another port.
    here = ray.get_runtime_context().gcs_address.endswith(f":{LAUNCHER_PORT}")
    return cluster_of_yaml(file) if here and file.is_file() else None


def _reported() -> Cluster | None:
    import ray._private.state as ray_state

    # Ray Data and Ray Train read it there too; Ray 2.60 has no public call for it.
    config = ray_state.state.get_cluster_config()
    return None if config is None else cluster_of_groups(config.node_group_configs)


def borrowed_cpus() -> float:
    """Return the CPUs that the current session counts but does not have: 1 if we started it on this machine, else 0."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return 1.0 if len(nodes) == 1 and nodes[0]["Resources"].get("CPU") == usable_cpus() + 1 else 0.0


def _init(address: str | None, level: int, verbose: bool) -> None:
    import ray

    if address is None:
        for name, value in ON_THIS_MACHINE.items():
            os.environ.setdefault(name, value)
        set_token()
        # One logical core more than there are: drivers and the mostly idle language model reserve it.
        temporary = socket_folder()
        try:
            ray.init(
                address="local",
                namespace=NAMESPACE,
                num_cpus=usable_cpus() + 1,
                object_store_memory=EMBEDDED_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=verbose,
                logging_level=level,
                _temp_dir=temporary,
            )
        except Exception as error:  # Ray has no class of its own for it
            raise ConfigError(
                f"no Ray cluster starts on this machine ({one_line(error, 200)}); with -v Ray says more"
            ) from error
    else:
        try:
            _check_answers(address)
            _check_token(address)
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=verbose,
                logging_level=level,
                runtime_env={"env_vars": NEEDED},
            )
        except (OSError, ValueError, RuntimeError) as error:
            if (versions := re.findall(r"(?:Ray|Python): \S+", str(error))) and "ersion mismatch" in str(error):
                cluster, here = " with ".join(versions[:2]), " with ".join(versions[2:])
                raise ConfigError(
                    f"--address is '{address}'; the cluster there has {cluster}, this process has {here}; they must "
                    "be the same: start the command on the cluster's head node, or install the versions that it has"
                ) from None
            raise ConfigError(
                f"--address is '{address}'; no Ray cluster answers there ({one_line(error, 200)}); "
                "leave it out to use this machine, or give 'auto' on the head node"
            ) from None


def _check_answers(address: str) -> None:
    """Raise OSError unless a gRPC server, as Ray's is, answers at an address HOST:PORT; Ray itself tries for minutes.

    Both sides of HTTP/2 (RFC 9113, section 3.4) begin with a frame of settings, after a fixed line from the client.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdecimal()):
        return  # 'auto', or a path
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS) as server:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        server.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
        if server.recv(len(_SETTINGS), socket.MSG_WAITALL)[3:4] != _SETTINGS[3:4]:
            raise ConnectionError("what answers there is not Ray")


def _check_token(address: str) -> None:
    """Raise ConfigError if the cluster at an address asks for another token; `ray.init` tries for minutes.

    Raises:
        ConnectionError: 'auto' is given, and there is no cluster on this machine, or several.
    """
    from ray._private.authentication import authentication_token_setup
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]  # native code
    from ray.exceptions import AuthenticationError

    if "://" in address:
        return
    refusal = ConfigError(
        f"--address is '{address}'; the cluster there asks for a token that this process does not have: start the "
        "command on the head node, or set RAY_AUTH_MODE=token and copy ~/.ray/auth_token from there"
    )
    # With the mode and without a token, Ray's native code would end the process.
    wanted = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if wanted and not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        raise refusal
    place = canonicalize_bootstrap_address_or_die(address)
    try:
        GcsClient(address=place)
    except AuthenticationError:
        # Where the mode is not set, Ray itself looks for the token of `ray start` only on 'auto'.
        logging.getLogger(authentication_token_setup.__name__).setLevel(logging.ERROR)
        try:
            found = authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            if found:
                GcsClient(address=place)
                return
        except AuthenticationError:
            pass
        raise refusal from None


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Keep off the screen what Ray's native code writes, and the raylets' logs that Ray prints when a node is lost."""
    import ray._private.worker as worker

    # Ray has no public switch for the latter; its debugger uses this one. `lost_nodes` says what a person needs.
    before = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        with _native_errors_to(log):
            yield
    finally:
        worker._worker_logs_enabled = before


@contextlib.contextmanager
def _native_errors_to(log: Path) -> Iterator[None]:
    """Redirect file descriptor 2 to a file; Python's sys.stderr still writes where it did."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    original, python_stderr = os.dup(2), sys.stderr
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(
        os.dup(original), "w", buffering=1, encoding=python_stderr.encoding, errors=python_stderr.errors
    )
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = python_stderr
        os.dup2(original, 2)
        os.close(original)


def _quiet_loggers(verbose: bool) -> None:
    """Raise the level of chatty loggers; call it after the import of Ray, which configures its loggers then."""
    if verbose:
        return
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("ray", "transformers", "datasets"):  # of MLflow, `tracking` sees to it
            logging.getLogger(name).setLevel(logging.ERROR)
