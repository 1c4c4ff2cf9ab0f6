"""SAELens's format: sae_weights.safetensors and cfg.json, with architecture jumprelu.

SAELens keeps a BatchTopK dictionary as jumprelu. Its Matryoshka widths then stand in the metadata, of older versions in
runner_cfg.json only. What this layout cannot say about a core is in the metadata of our own files.
"""

import json
import logging
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dmsae_ray import __version__
from dmsae_ray.errors import DataError
from dmsae_ray.files import replacing
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.files import add_product, adopt, naming, read_json, read_tensors
from dmsae_ray.sae.layouts import SAELENS_CONFIG, SAELENS_RUNNER, SAELENS_WEIGHTS

log = logging.getLogger(__name__)

_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
_THRESHOLDS = {"jumprelu": "threshold", "batchtopk": "topk_threshold", "matryoshka_batchtopk": "topk_threshold"}
"""Name of the threshold by architecture: what SAELens keeps for use, and its checkpoints of a training."""
_SAELENS_VERSION = "6.54.0"
"""SAELens version of this layout; without it SAELens takes the file for one from before version 6 and converts it."""


def export_saelens(
    sae: MatryoshkaSAE,
    folder: str | os.PathLike[str],
    model_name: str,
    hook_name: str,
    *,
    context_size: int = 1024,
    prepend_bos: bool = True,
    dataset_path: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Write the files that `sae_lens.SAE.load_from_disk` reads, for raw activations, and return the folder.

    The architecture is jumprelu with one threshold per latent, which is 0 on a dense core. Latents and reconstruction
    are the same as those of `sae.encode` and `sae.forward` on raw activations.

    Args:
        sae: the dictionary; it is folded if it is not for raw activations.
        folder: where the files go; it is made if it is missing.
        model_name: SAELens's name of the language model.
        hook_name: SAELens's name of the place where the activations were read.
        context_size: tokens per context.
        prepend_bos: whether contexts begin with BOS.
        dataset_path: the dataset, if it is known.
        metadata: further entries of the metadata.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    sae = sae.folded() if sae.norm_factor != 1.0 else sae
    tensors = {
        "W_enc": sae.W_enc.T,
        "b_enc": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
        # A threshold that was never estimated is -1 and lets everything positive pass, as 0 does.
        "threshold": sae.threshold.clamp(min=0),
    }
    config = {
        "d_in": sae.d_model,
        "d_sae": sae.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _SAELENS_VERSION,
            "sae_lens_training_version": None,
            "dmsae_ray_version": __version__,
            "model_name": model_name,
            "hook_name": hook_name,
            "hook_head_index": None,
            "context_size": context_size,
            "prepend_bos": prepend_bos,
            "dataset_path": dataset_path,
            "model_from_pretrained_kwargs": {},
            "exclude_special_tokens": False,
            "training_architecture": "matryoshka_batchtopk",
            "group_sizes": list(sae.group_sizes),
            "n_core": sae.n_core,
            "core_sparsity": sae.core_sparsity,
            "k": sae.k,
            **(metadata or {}),
        },
        "architecture": "jumprelu",
    }
    with replacing(path / SAELENS_WEIGHTS) as temporary:
        save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    with replacing(path / SAELENS_CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return path


def load_saelens(folder: str | os.PathLike[str], *, k: int) -> MatryoshkaSAE:
    """Load a BatchTopK dictionary of SAELens, Matryoshka or not; it takes raw activations, and encodes as SAELens does.

    The groups are the Matryoshka widths of the training, or what `export_saelens` noted. A BatchTopK dictionary is one
    group; where the folder does not say how it was trained, that is a warning.

    Args:
        folder: holds cfg.json and sae_weights.safetensors.
        k: target L0 where the folder does not say it.

    Raises:
        DataError: a file is missing or truncated, the architecture is another, activations are changed before they are
            encoded, or the latents have thresholds of their own.
    """
    path, weights = Path(folder) / SAELENS_CONFIG, Path(folder) / SAELENS_WEIGHTS
    config = read_json(path)
    _check_config(config, path)
    threshold = _THRESHOLDS[config["architecture"]]
    state = read_tensors(weights)
    if set(state) != {*_TENSORS, threshold}:
        raise DataError(f"{weights}: holds {sorted(state)}, must hold {sorted({*_TENSORS, threshold})}")
    with naming(weights):
        if not all(tensor.is_floating_point() for tensor in state.values()):
            raise ValueError(f"weights are {sorted({str(t.dtype) for t in state.values()})}, must be floating point")
        tensors = {name: state[name].float() for name in _TENSORS}
        tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    with naming(path), torch.device("meta"):
        sae = _empty(config, _training(path.parent / SAELENS_RUNNER, config), k, str(path))
    for name, tensor in tensors.items():
        expected = list(sae.state_dict()[name].shape)
        if list(tensor.shape) != expected:
            raise DataError(f"{weights}: {name} has shape {list(tensor.shape)} in our order, must have {expected}")
    if not config.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = add_product(tensors["b_enc"], tensors["W_enc"], tensors["b_dec"], 1)
    if config.get("rescale_acts_by_decoder_norm", False) and threshold == "topk_threshold":
        norms = torch.linalg.vector_norm(tensors["W_dec"], dim=1).clamp(min=1e-8)
        for name, factor in (("W_enc", norms[:, None]), ("b_enc", norms), ("W_dec", 1 / norms[:, None])):
            tensors[name] = tensors[name] * factor
    with naming(weights):
        tensors["theta"] = _theta(state[threshold].float().reshape(-1), sae)
    adopt(sae, tensors, weights)
    return sae


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    """Check that the dictionary is a BatchTopK on raw activations.

    Raises:
        DataError: it is not; one line that names the field, its value and what is allowed.
    """
    for name, wanted in (
        ("architecture", tuple(_THRESHOLDS)),
        ("normalize_activations", ("none", None, False)),
        ("reshape_activations", ("none", None)),
        ("finetuning_scaling_factor", (None, False)),
        ("apply_b_dec_to_input", (True, False, None)),
    ):
        value = config.get(name)
        if not any(type(value) is type(item) and value == item for item in wanted):
            allowed = " or ".join(repr(item) for item in wanted if item is not None)
            raise DataError(f"{path}: {name} is {value!r}, must be {allowed}")


def _training(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what runner_cfg.json, the metadata and the configuration itself say of the training."""
    runner = read_json(path).get("sae") if path.is_file() else None
    metadata = config.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    details, name = metadata.get("training_architecture_details"), metadata.get("training_architecture")
    said = {**_mapping(runner), **_mapping(details)}
    said["architecture"] = name or said.get("architecture")
    return {**said, **config} if config["architecture"] != "jumprelu" else {**config, **said}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _empty(config: Mapping[str, Any], training: Mapping[str, Any], k: int, where: str) -> MatryoshkaSAE:
    """Return a dictionary of the right shape, whose weights are to be set."""
    metadata = _mapping(config.get("metadata"))
    noted = metadata if "group_sizes" in metadata else {}
    d_model, n_latents, n_core = config["d_in"], config["d_sae"], noted.get("n_core", 0)
    return MatryoshkaSAE(
        d_model,
        n_latents,
        noted["group_sizes"] if noted else _groups(training, n_latents, where),
        max(1, round(noted.get("k") or training.get("k") or k)),
        core=torch.zeros(n_core, d_model) if n_core else None,
        core_sparsity=noted.get("core_sparsity", "dense"),
    )


def _groups(training: Mapping[str, Any], n_latents: int, where: str) -> list[int]:
    """Return the sizes of the groups that nested widths make; SAELens adds the last width where it is missing."""
    widths = training.get("matryoshka_widths")
    if not widths:
        if training["architecture"] != "batchtopk":
            log.warning(
                "%s does not say in which Matryoshka groups it was trained: its %d latents are one group, all of them "
                "candidates for the core",
                where,
                n_latents,
            )
        return [n_latents]
    ends = [0, *widths, *([n_latents] if widths[-1] != n_latents else [])]
    sizes = [end - begin for begin, end in pairwise(ends)]
    if min(sizes) < 1:
        raise ValueError(f"matryoshka_widths is {widths}; it must rise, up to d_sae = {n_latents}")
    return sizes


def _theta(thresholds: Tensor, sae: MatryoshkaSAE) -> Tensor:
    """Return the one threshold [] of thresholds [m] or [1]; a dense core has 0."""
    if len(thresholds) not in (1, sae.n_latents):
        raise ValueError(f"threshold has {len(thresholds)} numbers, must have {sae.n_latents}")
    theta, dense = thresholds[-1].clone(), thresholds[: sae.n_dense if len(thresholds) > 1 else 0]
    if not (bool((dense == 0).all()) and bool((thresholds[len(dense) :] == theta).all())):
        low, high = float(thresholds.min()), float(thresholds.max())
        raise ValueError(
            f"threshold is from {low:.3g} to {high:.3g}, must be one number: the cycles take BatchTopK dictionaries, "
            "not a JumpReLU whose thresholds were trained"
        )
    return theta
