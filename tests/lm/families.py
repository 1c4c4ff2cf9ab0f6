"""Tiny configurations of every causal architecture that the installed transformers knows.

Sizes that most configurations name alike are set by one table, what an architecture needs beside that by another.
"""

from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS = 4
VOCAB = 160
CONTEXT = 24

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "dim_model", "input_embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("num_decoder_layers", "encoder_layers", "num_encoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "dim_head", "attention_head_size", "kv_channels"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "dff"), 48),
    **dict.fromkeys(("n_inner", "feed_forward_size", "d_inner", "ffn_hidden_size", "dense_intermediate_size"), 48),
    **dict.fromkeys(("intermediate_size_mlp", "shared_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "topk_group", "n_group"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 128),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "local_attention"), 8),
    **dict.fromkeys(("attention_chunk_size", "keep_window_size", "window_size"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("index_head_dim",), 16),
    "index_n_heads": 2,
    "index_topk": 8,
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_head_dim", "mamba_d_head"), 8),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_heads"), 2),
    "linear_num_value_heads": 4,
    "query_pre_attn_scalar": 8,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "num_mtp_layers": 0,
    "num_nextn_predict_layers": 0,
    "first_k_dense_replace": 1,
    "image_size": 16,
    "patch_size": 8,
    "is_decoder": True,
    "is_encoder_decoder": False,
}
"""What is set where a configuration has a field of that name."""

_MLA = {"num_key_value_heads": 4}
_QWEN4 = {
    "hc_lowrank": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "output_gate_type": "sigmoid",
}
_SHARED_KV = {"num_hidden_layers": 12, "num_kv_shared_layers": 4, "vocab_size_per_layer_input": VOCAB}
_GEMMA4 = {**_SHARED_KV, "hidden_size_per_layer_input": 4, "global_head_dim": 8}
_INKLING2 = {"unpadded_vocab_size": VOCAB, "n_layers_per_attn_res_block": 2, "d_rel": 4, "rel_extent": 16}
_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"), _MLA),
    **dict.fromkeys(("glm_moe_dsa", "longcat_flash", "minicpm3", "sarvam_mla", "youtu"), _MLA),
    "dots3_note_text": {**_MLA, "layer_types": ["indexed_attention"] * LAYERS},
    "blt": {"encoder_hash_byte_group_vocab": 50, "encoder_hash_byte_group_size": [3, 4]},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    },
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "dory": {"num_hidden_layers": 6, "n_input_layers": 2, "n_output_layers": 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {**_SHARED_KV, "hidden_size_per_layer_input": 4, "laurel_rank": 4},
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": {**_GEMMA4},
    "gemma4_assistant": {"backbone_hidden_size": 32, "num_centroids": 8, "centroid_intermediate_top_k": 2},
    "gemma4_unified_assistant": {"backbone_hidden_size": 32, "num_centroids": 8, "centroid_intermediate_top_k": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "hrm_text": {"num_layers_per_stack": LAYERS},
    "inkling2_loop_text": {
        **_INKLING2,
        "num_hidden_layers": 6,
        "loop_layer_index_start": 2,
        "loop_layer_index_end": 4,
        "loop_gate_rank": 4,
    },
    "inkling2_text": _INKLING2,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "moshi": {"audio_vocab_size": 20},
    "qwen4_exp_text": _QWEN4,
    "reformer": {
        "attn_layers": ["local", "lsh"] * (LAYERS // 2),
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 16],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 2,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": 20,
        "shape_embed_dim": 8,
        "shape_vocab_size": 20,
    },
    "xlstm": {"qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * (LAYERS // 2),
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
}
"""What an architecture needs beside `_SIZES`."""

_TOWER: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "embed_dim", "adapter_in_dim", "adapter_input_size"), 16),
    **dict.fromkeys(("depth", "num_hidden_layers", "encoder_layers", "num_global_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "num_key_value_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "moe_intermediate_size"), 16),
    "head_dim": 8,
    "image_size": 16,
    "patch_size": 8,
    "vocab_size": 32,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "position_embedding_size": 16,
    "num_position_embeddings": 16,
}
"""Sizes of what reads images and sound; the text model does not use it."""


def architectures() -> tuple[str, ...]:
    """Return transformers' model types that have a causal language model."""
    return tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str, **settings: Any) -> transformers.PretrainedConfig:
    """Return a configuration of a small random model of an architecture."""
    return _tiny(CONFIG_MAPPING[model_type], settings)


def _tiny(config_class: Any, own: dict[str, Any], sizes: dict[str, Any] = _SIZES) -> transformers.PretrainedConfig:
    fields = config_class.__dataclass_fields__
    settings = {name: value for name, value in sizes.items() if name in fields}
    settings.update({**_OWN.get(config_class.model_type, {}), **own})
    for name, part in config_class.sub_configs.items():
        if name in settings:
            continue
        if part is transformers.AutoConfig:
            part = type(getattr(config_class(), name))
        if hasattr(part, "__dataclass_fields__"):
            text = "text" in name or name == "decoder"
            settings[name] = _tiny(part, {}, _SIZES if text else _TOWER).to_dict()
    config: transformers.PretrainedConfig = config_class(**settings)
    return config
