"""What SAELens, SAEDashboard and Neuronpedia read about an SAE: model, place, text and contexts."""

import re
from collections.abc import Mapping
from typing import Any

_NAMES = {
    "gpt2": "gpt2-small",
    "openai-community/gpt2": "gpt2-small",
    "openai-community/gpt2-medium": "gpt2-medium",
    "openai-community/gpt2-large": "gpt2-large",
    "openai-community/gpt2-xl": "gpt2-xl",
}
_WITHOUT_OWNER = re.compile(r"google/(gemma-\d+b(?:-it)?|gemma-2-\d+b(?:-it)?)|EleutherAI/(pythia-\S+)")
_LOWER = re.compile(r"Qwen/(Qwen3-[\d.]+B)")


def saelens_name(model: str) -> str:
    """Return what SAELens's own lists call a model of the Hub: 'google/gemma-2-2b' is 'gemma-2-2b'.

    The names are TransformerLens's first ones. A model that is not known here keeps its id, which both read too.
    """
    if model in _NAMES:
        return _NAMES[model]
    if found := _WITHOUT_OWNER.fullmatch(model):
        return found[1] or found[2]
    found = _LOWER.fullmatch(model)
    return found[1].lower() if found else model


def saelens_metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `export_saelens` that follow from the note with an SAE.

    Args:
        about: the note (`about_sae`), with at least model, layer and context. Notes of version 0.1.0 do not say how
            contexts begin: then they begin with BOS, as they do with every tokenizer that has one.
    """
    text: Mapping[str, Any] = about.get("text") or {"begins": "bos", "separator": "eos"}
    return {
        "model_name": saelens_name(about["model"]),
        "hook_name": f"blocks.{about['layer']}.hook_resid_post",
        "context_size": about["context"],
        "prepend_bos": text.get("begins") is not None,
        "dataset_path": _dataset(text),
        "metadata": {
            "model_class_name": "HookedTransformer",
            # TransformerLens's own default shifts the residual stream of models with LayerNorm.
            "model_from_pretrained_kwargs": {"center_writing_weights": False},
            "model_revision": about.get("revision"),
            "model_dtype": about.get("dtype"),
            "dataset_subset": text.get("subset"),
            "dataset_split": text.get("split"),
            "dataset_revision": text.get("revision"),
            "exclude_special_tokens": list(text.get("left_out") or ()) or False,
            "sequence_separator_token": text.get("separator"),
            "disable_concat_sequences": False,
        },
    }


def _dataset(text: Mapping[str, Any]) -> str | None:
    """Return the id of the dataset; None where the text is not a dataset of the Hub."""
    path = str(text.get("path"))
    if text.get("source") == "huggingface":
        return path
    found = re.match(r"hf://datasets/([^/@]+/[^/@]+)", path)
    return found[1] if found else None
