"""Joining a Ray cluster, or starting the embedded one, without Ray's chatter unless it is asked for."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from dmsae_ray.errors import ConfigError

NAMESPACE = "dmsae"
EMBEDDED_OBJECT_STORE_BYTES = 512 * 2**20
"""Activations go through files, not through Ray's object store; what remains is small."""

# The part of a core that each of the light processes (a trial's driver, the claims) is booked with.
DRIVER_CPUS = 0.05

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; `verbose=0` silences the old output only
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
_ALWAYS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A report waits for the next look at the workers' health: 2 s by default, as long as a small cycle takes.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Processes of a trial come in handfuls; Ray warns at four times this number.
    "RAY_maximum_startup_concurrency": "16",
}


def set_environment(verbose: bool) -> None:
    """Set what Ray reads from the environment. Call it before the first `import ray`."""
    for name, value in {**_ALWAYS, **({} if verbose else _QUIET)}.items():
        os.environ.setdefault(name, value)
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning)
        for name in ("ray", "ray.data", "ray.tune", "ray.train", "transformers", "mlflow", "alembic", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def ray_session(address: str | None, *, verbose: bool = False) -> Iterator[None]:
    """Join the cluster at `address`, or start one on this machine for as long as the context lasts.

    Raises:
        ConfigError: nothing answers at `address`.
    """
    set_environment(verbose)
    import ray

    level = logging.INFO if verbose else logging.ERROR
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
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=verbose, logging_level=level)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"--address is '{address}'; no Ray cluster answers there ({reason[:200]}); "
                "leave it out to use this machine, or give 'auto' on the head node"
            ) from None
    _quiet_loggers(verbose)
    try:
        yield
    finally:
        ray.shutdown()


def _quiet_loggers(verbose: bool) -> None:
    """Ray configures its loggers when it is imported; set their level after that."""
    if verbose:
        return
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("ray", "transformers", "mlflow", "alembic", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
