"""Give MLflow a trained SAE as a registered model."""

import logging
import os
import warnings
from pathlib import Path

from dmsae_ray import __version__
from dmsae_ray.errors import ConfigError
from dmsae_ray.tracking.destination import Destination, connect
from dmsae_ray.tracking.troubles import reason_of

_CONNECT_SECONDS = 60.0


def register_sae(destination: Destination, experiment: str, name: str, folder: Path, d_model: int, latents: int) -> str:
    """Register an SAE; `mlflow.pyfunc.load_model` then loads a model that encodes raw activations.

    Args:
        destination: The MLflow store.
        experiment: Name of the MLflow experiment that the model belongs to.
        name: Name of the registered model.
        folder: Folder of the SAE, as `sae.save_sae` writes it.
        d_model: Width of the activations.
        latents: Number of latents, core included.

    Returns:
        The address of the new version, models:/<name>/<version>.

    Raises:
        ConfigError: The store does not work, or refuses the model.
    """
    connect(destination, lambda client: client.get_experiment_by_name(experiment), _CONNECT_SECONDS)
    import mlflow
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def rows(width: int) -> Schema:
        return Schema([TensorSpec(np.dtype("float32"), (-1, width))])

    for noisy in ("mlflow", "mlflow.store.model_registry.abstract_store"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(destination.uri)
    try:
        mlflow.set_experiment(experiment)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for an example of the input; the signature says what it is
            made = mlflow.pyfunc.log_model(
                name=name,
                python_model=str(Path(__file__).with_name("encoder_model.py")),
                artifacts={"sae": str(folder)},
                signature=ModelSignature(rows(d_model), rows(latents)),
                pip_requirements=[f"dmsae-ray=={__version__}"],
                registered_model_name=name,
            )
    except Exception as error:  # whatever the store raises: a taken name, a disk that is full, no permission
        raise ConfigError(f"NAME is '{name}'; MLflow does not take it ({reason_of(error)})") from None
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # it takes None, and is of the whole process
    return f"models:/{name}/{made.registered_model_version}"
