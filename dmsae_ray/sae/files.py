"""Our own SAE format: a folder with sae.safetensors and config.json, for raw activations."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dmsae_ray.errors import ConfigError, DataError, one_line
from dmsae_ray.files import replacing
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.layouts import CONFIG, WEIGHTS

FORMAT = "dmsae_ray.sae/1"
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "theta")


def save_sae(sae: MatryoshkaSAE, folder: str | os.PathLike[str], extra: dict[str, Any] | None = None) -> Path:
    """Write `sae` for raw activations (folded if needed), and return the folder.

    Each file appears complete or not at all.

    Args:
        sae: the dictionary.
        folder: where the files go; it is made if it is missing.
        extra: what config.json says about the SAE besides its own settings; must be JSON-serialisable.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if sae.norm_factor != 1.0:
        sae = sae.folded()
    config = {
        "format": FORMAT,
        "d_model": sae.d_model,
        "n_latents": sae.n_latents,
        "n_core": sae.n_core,
        "group_sizes": list(sae.group_sizes),
        "k": sae.k,
        "core_sparsity": sae.core_sparsity,
        "core_decoder_init": sae.core_decoder_init,
        "seed": sae.seed,
        "extra": extra or {},
    }
    state = sae.state_dict()
    tensors = {name: state[name].detach().cpu().contiguous() for name in _TENSORS}
    with replacing(path / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    with replacing(path / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return path


def load_sae(folder: str | os.PathLike[str]) -> MatryoshkaSAE:
    """Load the SAE that `save_sae` wrote.

    Raises:
        DataError: a file is missing or truncated, or the two do not fit together.
    """
    path = Path(folder)
    config = read_json(path / CONFIG)
    if config.get("format") != FORMAT:
        raise DataError(f"{path / CONFIG}: format is {config.get('format')!r}, must be {FORMAT!r}")
    tensors = read_tensors(path / WEIGHTS)
    with naming(path / CONFIG), torch.device("meta"):
        sae = MatryoshkaSAE(
            config["d_model"],
            config["n_latents"],
            config["group_sizes"],
            config["k"],
            core=torch.zeros(config["n_core"], config["d_model"]) if config["n_core"] else None,
            core_sparsity=config["core_sparsity"],
            core_decoder_init=config["core_decoder_init"],
            seed=config["seed"],
        )
    adopt(sae, tensors, path / WEIGHTS)
    return sae


def about_sae(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the `extra` that `save_sae` wrote.

    Raises:
        DataError: the file is missing or of another format.
    """
    extra = read_json(Path(folder) / CONFIG).get("extra")
    if not isinstance(extra, dict):
        raise DataError(f"{Path(folder) / CONFIG}: extra is {extra!r}, must be an object")
    return extra


def encoder_rows(folder: str | os.PathLike[str], stop: int) -> Tensor:
    """Return the first `stop` encoder rows of the SAE that `save_sae` wrote, [stop, d]; the others are not read.

    Raises:
        DataError: the file is missing or truncated.
    """
    path = Path(folder) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            rows: Tensor = file.get_slice("W_enc")[:stop]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({one_line(error)})") from error
    return rows


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        DataError: the file is missing, truncated or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({one_line(error)})") from error


def adopt(sae: MatryoshkaSAE, tensors: dict[str, Tensor], path: Path) -> None:
    """Make `tensors` (by the names of the state dict) the weights of `sae`, without a copy where possible.

    A tensor is copied only if its numbers are not contiguous, or if it shares its memory with another, because training
    could not write to it. The numbers may be NaN: a training that diverged is a result too.

    Raises:
        DataError: a tensor is missing, unknown, or of another shape or dtype; the message names `path`.
    """
    expected = sae.state_dict()
    if set(tensors) != set(expected):
        raise DataError(f"{path}: holds {sorted(tensors)}, must hold {sorted(expected)}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise DataError(f"{path}: {name} has shape {list(tensor.shape)}, must have {list(expected[name].shape)}")
        if tensor.dtype != torch.float32:
            raise DataError(f"{path}: {name} is {tensor.dtype}, must be float32")
    storages = [tensor.untyped_storage().data_ptr() for tensor in tensors.values()]
    weights = {
        name: tensor
        if tensor.is_contiguous() and storages.count(storage) == 1
        else tensor.clone(memory_format=torch.contiguous_format)
        for (name, tensor), storage in zip(tensors.items(), storages, strict=True)
    }
    sae.load_state_dict(weights, assign=True)
    sae.requires_grad_(False)


def add_product(bias: Tensor, rows: Tensor, vector: Tensor, sign: int) -> Tensor:
    """Return bias [m] + sign * rows [m, d] @ vector [d], computed in float64 without a second matrix of that size."""
    products = [part.double() @ vector.double() for part in torch.split(rows, 4096)]
    return (bias.double() + sign * torch.cat(products)).float()


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file.

    Raises:
        DataError: the file is missing or does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({one_line(error)})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, must hold an object")
    return value


class naming:
    """Context that turns errors about odd content (KeyError, ConfigError, …) into a DataError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError):
            raise DataError(f"{self._path}: {error} is missing") from error
        if isinstance(error, (TypeError, ValueError, ArithmeticError, RuntimeError, ConfigError)):
            raise DataError(f"{self._path}: {one_line(error)}") from error
