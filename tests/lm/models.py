"""Tiny random models of each architecture that the tap supports, saved as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers

from dmsae_ray.lm.tokenizer import load_tokenizer

LAYERS = 3
VOCAB = 1024

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    # soft caps low and windows short, so that they bite at this size
    "gemma2": (
        "Gemma2Config",
        {
            **_GROUPED,
            "sliding_window": 8,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 8,
        },
    ),
    "gemma3": ("Gemma3TextConfig", {**_GROUPED, "sliding_window": 8, "sliding_window_pattern": 2}),
    "llama": ("LlamaConfig", _GROUPED),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", _GROUPED),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCAB,
            "n_embd": 32,
            "n_layer": LAYERS,
            "n_head": 4,
            "n_positions": 128,
            "eos_token_id": 1,
            "bos_token_id": 2,
        },
    ),
    # positions shifted by two, and a decoder inside the model
    "opt": ("OPTConfig", {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "cohere": ("CohereConfig", {**_COMMON, "logit_scale": 0.25}),
}


_TEXT = {**_GROUPED, "sliding_window": 8, "sliding_window_pattern": 2}
CONFIGS["gemma3_multimodal"] = (
    "Gemma3Config",
    {
        "text_config": _TEXT,
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        "mm_tokens_per_image": 4,
        "image_token_index": 900,
        "boi_token_index": 901,
        "eoi_token_index": 902,
    },
)


def save_random_model(architecture: str, folder: Path, *, tokenizer: bool = True) -> Path:
    """Random weights, large enough that attention and the MLPs matter."""
    name, settings = CONFIGS[architecture]
    config = getattr(transformers, name)(**settings)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if tokenizer:
        load_tokenizer("tiny").save_pretrained(folder)
    return folder


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model as transformers loads it, in the attention implementation that is right for it."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
