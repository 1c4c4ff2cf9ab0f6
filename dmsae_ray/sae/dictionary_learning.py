"""Files of dictionary_learning, which SAEBench reads too: ae.pt and config.json.

What these layouts cannot say about a core is in config.json under "dmsae_ray", which other readers ignore.
"""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmsae_ray.errors import DataError, one_line
from dmsae_ray.files import replacing
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.files import add_product, adopt, naming, read_json
from dmsae_ray.sae.layouts import CONFIG, PEER_WEIGHTS

_KEYS = {"W_enc", "b_enc", "W_dec", "b_dec", "k", "threshold", "group_sizes"}
_LINEAR_KEYS = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
"""The package's other names for the weights, those of linear layers, which hold both matrices transposed."""
_TRAINERS = ("MatryoshkaBatchTopKTrainer", "MatroyshkaBatchTopKTrainer")
"""Both spellings that published files have; the second is of January 2025."""
_JUMP_RELU = "JumpReluTrainer"
_OURS = "dmsae_ray"


def load_dictionary_learning(folder: str | os.PathLike[str]) -> MatryoshkaSAE:
    """Load the Matryoshka BatchTopK dictionary in ae.pt and config.json; it takes raw activations.

    A JumpReLU file that `export_dictionary_learning` wrote for a dense core is read too; JumpReLU files of others have
    no groups. The file is memory-mapped and unpickled with weights_only, and its tensors become the weights: only
    W_enc, which the file holds transposed, is copied.

    Raises:
        DataError: a file is missing, truncated or of another kind.
    """
    path, weights = Path(folder) / CONFIG, Path(folder) / PEER_WEIGHTS
    config = read_json(path)
    trainer, ours = config.get("trainer"), config.get(_OURS)
    name = trainer.get("trainer_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or name not in (*_TRAINERS, _JUMP_RELU):
        raise DataError(f"{path}: trainer_class is {name!r}, must be {_TRAINERS[0]!r}")
    if name == _JUMP_RELU and not isinstance(ours, dict):
        raise DataError(f"{path}: trainer_class is {name!r}, which has no groups unless dmsae_ray wrote it")
    state = _read_state(weights, ours if name == _JUMP_RELU and isinstance(ours, dict) else trainer)
    with naming(path if isinstance(ours, dict) else weights):
        said: dict[str, Any] = {"group_sizes": state["group_sizes"].tolist(), "k": int(state["k"])}
        if isinstance(ours, dict):
            said = ours
        d_model, n_latents, n_core = *state["W_enc"].shape, said.get("n_core", 0)
        # These weights are replaced at once, so they need no memory and no random numbers.
        with torch.device("meta"):
            sae = MatryoshkaSAE(
                d_model,
                n_latents,
                said["group_sizes"],
                said["k"],
                core=torch.empty(n_core, d_model) if n_core else None,
                core_sparsity=said.get("core_sparsity", "dense"),
            )
        sae.seed = int(trainer.get("seed") or 0)
        tensors = _weights(sae, state, jump_relu=name == _JUMP_RELU)
    adopt(sae, tensors, weights)
    _check_said(trainer, state, path)
    return sae


def _check_said(trainer: dict[str, Any], state: dict[str, Tensor], path: Path) -> None:
    """Check that the weights are those of the training that config.json describes, as far as it describes it.

    Raises:
        DataError: they are not; one line that names the entry, its value and that of the weights.
    """
    d_model, n_latents = state["W_enc"].shape
    held: dict[str, Any] = {"activation_dim": d_model, "dict_size": n_latents}
    if trainer["trainer_class"] != _JUMP_RELU:
        held |= {"k": state["k"].item(), "group_sizes": state["group_sizes"].tolist()}
    for name, value in held.items():
        said = trainer.get(name)
        if said is not None and said != value:
            raise DataError(f"{path}: trainer.{name} is {said!r}, and {value!r} in ae.pt: they are of different SAEs")


def _weights(sae: MatryoshkaSAE, state: dict[str, Tensor], *, jump_relu: bool) -> dict[str, Tensor]:
    """Return the state with our names and orientation; `adopt` checks the shapes."""
    if not all(state[name].is_floating_point() for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")):
        raise ValueError(f"weights are {sorted({str(t.dtype) for t in state.values()})}, must be floating point")
    tensors = {
        "W_enc": state["W_enc"].float().T.contiguous(),
        "W_dec": state["W_dec"].float().contiguous(),
        "b_enc": state["b_enc"].float(),
        "b_dec": state["b_dec"].float(),
        "theta": state["threshold"].float(),
    }
    fits = all(tensors[n].shape == w.shape for n, w in sae.state_dict().items() if n != "theta")
    if jump_relu and fits and tensors["theta"].shape == (sae.n_latents,):
        tensors["b_enc"] = add_product(tensors["b_enc"], tensors["W_enc"], tensors["b_dec"], 1)
        theta = tensors["theta"][-1].clone()
        dense = tensors["theta"][: sae.n_dense]
        if not (bool((dense == 0).all()) and bool((tensors["theta"][sae.n_dense :] == theta).all())):
            raise ValueError("its thresholds are not 0 on the core and one number elsewhere")
        tensors["theta"] = theta
    elif jump_relu:
        tensors["theta"] = tensors["theta"].reshape(-1)
    elif tensors["theta"].numel() == 1:
        tensors["theta"] = tensors["theta"].reshape(())
    return tensors


def export_dictionary_learning(sae: MatryoshkaSAE, folder: str | os.PathLike[str], lm_name: str, layer: int) -> Path:
    """Write ae.pt and config.json for raw activations, and return the folder.

    A dictionary with one threshold for all latents keeps the Matryoshka layout. A dictionary with a dense core has two
    thresholds, which that layout cannot say. It is written as dictionary_learning's JumpReLU, whose encoder does not
    subtract b_dec, so b_enc becomes b_enc - W_enc b_dec.

    Args:
        sae: the dictionary; it is folded if it is not for raw activations.
        folder: where the files go; it is made if it is missing.
        lm_name: name of the language model.
        layer: number of the block after which the activations were read.
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
        _OURS: {
            "n_core": sae.n_core,
            "core_sparsity": sae.core_sparsity,
            "group_sizes": list(sae.group_sizes),
            "k": sae.k,
        },
    }
    # Through an open file: a path's own name would stand in the archive, and the same SAE would be other bytes.
    with replacing(path / PEER_WEIGHTS) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)
    with replacing(path / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=4), encoding="utf-8")
    return path


def _matryoshka(sae: MatryoshkaSAE) -> tuple[dict[str, Tensor], dict[str, Any]]:
    groups = list(sae.group_sizes)
    groups[0] += sae.n_core
    state = {
        # dictionary_learning's own files hold a transposed view too.
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
    W_enc, b_dec = sae.W_enc.detach().cpu(), sae.b_dec.detach().cpu()
    state = {
        "W_enc": W_enc.T,
        "b_enc": add_product(sae.b_enc.detach().cpu(), W_enc, b_dec, -1),
        "W_dec": sae.W_dec.detach().cpu(),
        "b_dec": b_dec,
        "threshold": sae.threshold.clamp(min=0).cpu(),
    }
    return state, {"trainer_class": _JUMP_RELU, "dict_class": "JumpReluAutoEncoder"}


def _read_state(path: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors by the names of `_KEYS`; k and group_sizes may stand in the configuration only."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:  # its text advises to run what the file holds
        raise DataError(
            f"{path}: not a whole torch file of tensors alone (what else it may hold is never run)"
        ) from error
    except Exception as error:  # the unpickler raises almost any error on a damaged file
        raise DataError(f"{path}: not a whole torch file ({one_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise DataError(f"{path}: not a flat dictionary of tensors (a training backup?)")
    if not all(_is_whole(value) for value in state.values()):
        raise DataError(f"{path}: a matrix is larger than the file, or a tensor is not one of plain numbers")
    if {_LINEAR_KEYS.get(key) for key in state} & set(state):
        raise DataError(f"{path}: spells its weights in both ways: {sorted(state)}")
    state = {_LINEAR_KEYS.get(key, key): value.T if key.endswith(".weight") else value for key, value in state.items()}
    with naming(path.with_name(CONFIG)):
        for name in ("k", "group_sizes"):
            if name not in state and config.get(name) is not None:
                state[name] = torch.tensor(config[name])
    if set(state) != _KEYS:
        missing, surplus = sorted(_KEYS - set(state)), sorted(set(state) - _KEYS)
        raise DataError(f"{path}: not a Matryoshka BatchTopK dictionary: misses {missing}, has also {surplus}")
    k = state["k"]
    if state["W_enc"].ndim != 2 or state["group_sizes"].ndim != 1 or k.numel() != 1 or not bool(k == k.round()):
        raise DataError(
            f"{path}: W_enc {list(state['W_enc'].shape)} must be [d, m], group_sizes a list, k a whole number"
        )
    return state


def _is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor's numbers are all in the file: a small file can describe a matrix of any size."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    size = tensor.numel() * tensor.element_size()
    return plain and (tensor.ndim < 2 or size <= tensor.untyped_storage().nbytes())  # vectors must fit to the matrices
