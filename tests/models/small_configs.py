"""Configs of small models, a family each, for tests of how they are read."""

import json
from pathlib import Path
from typing import Any

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
}

MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
    "decoder_sparse_step": 1,
}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"]}
SMOLLM3 = {"architectures": ["SmolLM3ForCausalLM"]}
QWEN3_VL: dict[str, Any] = {
    **dict.fromkeys(CONFIG),
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "text_config": {name: x for name, x in CONFIG.items() if name != "tie_word_embeddings"},
    "vision_config": {},
    "tie_word_embeddings": True,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
DELTA_NET: dict[str, Any] = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 10,
    "linear_conv_kernel_dim": 3,
    "attn_output_gate": True,
    "mamba_ssm_dtype": "float32",
    "mtp_num_hidden_layers": 1,
    "rope_parameters": {
        "rope_theta": 1e7,
        "rope_type": "default",
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
    },
}
DELTA_NET_EXPERTS = {
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "intermediate_size": None,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}


def write(folder: Path, **changes: Any) -> Path:
    """Write the config of a small Llama, some of its fields changed; None: left out."""
    config = {k: v for k, v in (CONFIG | changes).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
