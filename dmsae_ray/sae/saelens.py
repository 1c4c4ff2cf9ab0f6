"""SAELens's format: sae_weights.safetensors and cfg.json, with architecture jumprelu."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dmsae_ray import __version__
from dmsae_ray.files import replacing
from dmsae_ray.sae.dictionary import MatryoshkaSAE

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
    with replacing(path / "sae_weights.safetensors") as temporary:
        save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    with replacing(path / "cfg.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return path
