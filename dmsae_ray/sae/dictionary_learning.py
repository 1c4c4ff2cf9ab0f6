"""Files of dictionary_learning, which SAEBench reads too: ae.pt and config.json (RECIPE section 2, 3a)."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmsae_ray.errors import DataError
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.files import adopt, naming, one_line, read_json, replacing

_KEYS = {"W_enc", "b_enc", "W_dec", "b_dec", "k", "threshold", "group_sizes"}
_LINEAR_KEYS = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
"""The package's other spelling of the weights, as linear layers: both matrices are transposed against the first."""
_TRAINERS = ("MatryoshkaBatchTopKTrainer", "MatroyshkaBatchTopKTrainer")
"""Both spellings that published files have; the second is of January 2025."""


def load_dictionary_learning(folder: str | os.PathLike[str]) -> MatryoshkaSAE:
    """The Matryoshka BatchTopK dictionary of ae.pt + config.json; it takes raw activations.

    The file is mapped, unpickled with weights_only, and its tensors become the weights: only W_enc, which it holds
    transposed, is copied. DataError for a file that is missing, truncated or of another kind.
    """
    path = Path(folder)
    trainer = read_json(path / "config.json").get("trainer")
    name = trainer.get("trainer_class") if isinstance(trainer, dict) else None
    if name not in _TRAINERS:
        raise DataError(f"{path / 'config.json'}: trainer_class is {name!r}, must be {_TRAINERS[0]!r}")
    state = _one_spelling(_read_state(path / "ae.pt"), trainer, path / "ae.pt")
    with naming(path / "ae.pt"):
        groups = [int(size) for size in state["group_sizes"].tolist()]
        d_model, n_latents = state["W_enc"].shape
        # Weights that are replaced at once need no memory and no random numbers.
        with torch.device("meta"):
            sae = MatryoshkaSAE(int(d_model), int(n_latents), groups, int(state["k"]))
    tensors = {
        "W_enc": state["W_enc"].float().T.contiguous(),
        "W_dec": state["W_dec"].float().contiguous(),
        "b_enc": state["b_enc"].float(),
        "b_dec": state["b_dec"].float(),
        "theta": state["threshold"].float().reshape(()) if state["threshold"].numel() == 1 else state["threshold"],
    }
    adopt(sae, tensors, path / "ae.pt")
    sae.seed = int(trainer.get("seed") or 0) if isinstance(trainer, dict) else 0
    return sae


def export_dictionary_learning(sae: MatryoshkaSAE, folder: str | os.PathLike[str], lm_name: str, layer: int) -> Path:
    """Writes ae.pt and config.json, folded; returns the folder.

    A dictionary with one threshold for all latents keeps the Matryoshka layout. One with a dense core has two, which
    that layout cannot say: it is written as dictionary_learning's JumpReLU, whose encoder does not subtract b_dec, so
    that b_enc becomes b_enc - W_enc b_dec.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    sae = sae.folded() if sae.norm_factor != 1.0 else sae
    state, kind = _jump_relu(sae) if sae.n_dense else _matryoshka(sae)
    config = {
        "trainer": {
            **kind,
            "activation_dim": sae.d_model,
            "dict_size": sae.n_latents,
            "seed": sae.seed,
            "device": "cpu",
            "layer": layer,
            "lm_name": lm_name,
            "submodule_name": f"resid_post_layer_{layer}",
            "wandb_name": "dmsae_ray",
        },
        "buffer": {"d_submodule": sae.d_model, "io": "out", "device": "cpu"},
    }
    with replacing(path / "ae.pt") as temporary:
        torch.save(state, temporary)
    with replacing(path / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=4))
    return path


def _matryoshka(sae: MatryoshkaSAE) -> tuple[dict[str, Tensor], dict[str, Any]]:
    groups = list(sae.group_sizes)
    groups[0] += sae.n_core
    state = {
        # The peer's own files hold a transposed view; so does this one.
        "W_enc": sae.W_enc.detach().cpu().T,
        "b_enc": sae.b_enc.detach().cpu(),
        "W_dec": sae.W_dec.detach().cpu(),
        "b_dec": sae.b_dec.detach().cpu(),
        "k": torch.tensor(sae.topk_budget, dtype=torch.int32),
        "threshold": sae.theta.detach().cpu().clone(),
        "group_sizes": torch.tensor(groups),
    }
    kind = {
        "trainer_class": "MatryoshkaBatchTopKTrainer",
        "dict_class": "MatryoshkaBatchTopKSAE",
        "k": sae.topk_budget,
        "group_sizes": groups,
        "group_fractions": [size / sae.n_latents for size in groups],
    }
    return state, kind


def _jump_relu(sae: MatryoshkaSAE) -> tuple[dict[str, Tensor], dict[str, Any]]:
    bias = sae.b_enc.double() - sae.W_enc.double() @ sae.b_dec.double()
    state = {
        "W_enc": sae.W_enc.detach().cpu().T,
        "b_enc": bias.float().cpu(),
        "W_dec": sae.W_dec.detach().cpu(),
        "b_dec": sae.b_dec.detach().cpu(),
        "threshold": sae.threshold.clamp(min=0).cpu(),
    }
    return state, {"trainer_class": "JumpReluTrainer", "dict_class": "JumpReluAutoEncoder"}


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a whole torch file ({one_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path}: not a flat dictionary of tensors (a training backup?)")
    return state


def _one_spelling(state: dict[str, Tensor], trainer: Any, path: Path) -> dict[str, Tensor]:
    """The state with the names and orientation of `_KEYS`; k and group_sizes may be in the configuration only."""
    state = {_LINEAR_KEYS.get(key, key): value.T if key.endswith(".weight") else value for key, value in state.items()}
    for name in ("k", "group_sizes"):
        if name not in state and trainer.get(name) is not None:
            state[name] = torch.tensor(trainer[name])
    if set(state) != _KEYS:
        missing, surplus = sorted(_KEYS - set(state)), sorted(set(state) - _KEYS)
        raise DataError(f"{path}: not a Matryoshka BatchTopK dictionary: misses {missing}, has also {surplus}")
    if state["W_enc"].ndim != 2 or state["group_sizes"].ndim != 1 or state["k"].numel() != 1:
        raise DataError(f"{path}: W_enc {list(state['W_enc'].shape)} must be [d, m], group_sizes a list, k a number")
    return state
