"""The model that MLflow loads of a trained SAE: it encodes activations.

MLflow keeps this file with the model and runs it when the model is loaded: nothing is unpickled. The weights are the
SAE's own safetensors file.
"""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from dmsae_ray.sae import load_sae


class SaeEncoder(PythonModel):
    """Encode rows of raw activations with the inference mask (Eq. 1, 2)."""

    def load_context(self, context: Any) -> None:
        """Read the SAE; stored SAEs take raw activations."""
        self._sae = load_sae(context.artifacts["sae"])

    # Without types: MLflow takes those of a model for its schema, which the signature gives.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return latents [n, m], float32, of activations [n, d], an array or a table with a column a dimension."""
        rows = np.asarray(model_input, dtype=np.float32)
        return self._sae.encode(self._sae.W_enc.new_tensor(rows)).detach().numpy()


set_model(SaeEncoder())
