"""Architecture of a Hugging Face model as Megatron's flags.  A family is a row in a table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_dasd.errors import UserError

VOCAB_MULTIPLE = 128
"""The vocabulary is padded to a multiple of this under every layout, so that layouts can change."""

Flags = dict[str, Any]
"""Megatron flags by name, without dashes: True is a bare flag, a list its several values."""


@dataclass(frozen=True)
class Family:
    """What a model family has beyond the Llama shape."""

    qk_layernorm: bool = False
    qkv_bias: bool = False


FAMILIES = {
    "LlamaForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(qkv_bias=True),
    "Qwen3ForCausalLM": Family(qk_layernorm=True),
}


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder-only model of the Llama shape (RMSNorm, SwiGLU, RoPE, grouped queries)."""

    family: Family
    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    norm_epsilon: float
    rotary_base: float
    tied_embeddings: bool

    @property
    def padded_vocab_size(self) -> int:
        """Rows of Megatron's embedding matrix."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def flags(self, tensor_parallel: int) -> Flags:
        """Megatron's flags of this architecture.

        Raises:
            UserError: the heads or the vocabulary cannot be split over the tensor-parallel ranks.
        """
        for what, size in (
            ("attention heads", self.num_attention_heads),
            ("key-value heads", self.num_query_groups),
            ("padded vocabulary", VOCAB_MULTIPLE),
        ):
            if size % tensor_parallel:
                raise UserError(
                    f"tensor_parallel {tensor_parallel} does not divide the model's {what} ({size})"
                )
        return {
            "num-layers": self.num_layers,
            "hidden-size": self.hidden_size,
            "num-attention-heads": self.num_attention_heads,
            "group-query-attention": True,
            "num-query-groups": self.num_query_groups,
            "kv-channels": self.head_dim,
            "ffn-hidden-size": self.ffn_hidden_size,
            "max-position-embeddings": self.max_position_embeddings,
            "tokenizer-type": "NullTokenizer",
            "vocab-size": self.vocab_size,
            # Megatron multiplies by the tensor-parallel size; undone here.
            "make-vocab-size-divisible-by": VOCAB_MULTIPLE // tensor_parallel,
            "normalization": "RMSNorm",
            "norm-epsilon": self.norm_epsilon,
            "swiglu": True,
            "disable-bias-linear": True,
            "add-qkv-bias": self.family.qkv_bias,
            "qk-layernorm": self.family.qk_layernorm,
            "position-embedding-type": "rope",
            "rotary-base": int(self.rotary_base),
            "untie-embeddings-and-output-weights": not self.tied_embeddings,
            "attention-dropout": 0.0,
            "hidden-dropout": 0.0,
        }


def read_architecture(folder: Path) -> Architecture:
    """Read ``config.json`` of a Hugging Face folder.

    Raises:
        UserError: no config there, an unknown family, or an option that Megatron would not honour.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted a Hugging Face model folder") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    name = next(iter(config.get("architectures") or ["?"]))
    if name not in FAMILIES:
        raise UserError(f"{path}: field architectures: {name} is not one of {', '.join(FAMILIES)}")
    try:
        return _from_config(config, FAMILIES[name], path)
    except KeyError as error:
        raise UserError(f"{path}: field {error.args[0]}: missing") from None


def _from_config(config: dict[str, Any], family: Family, path: Path) -> Architecture:
    # transformers 5 nests the rotary settings, earlier versions do not.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    refused: list[tuple[str, Any, Literal["default", "silu", False]]] = [
        ("rope_type", rope_type, "default"),
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
        ("mlp_bias", config.get("mlp_bias", False), False),
        ("attention_bias", config.get("attention_bias", False), False),
    ]
    for field, value, wanted in refused:
        if value != wanted:
            raise UserError(f"{path}: field {field}: {value!r} is not supported (only {wanted!r})")
    heads = config["num_attention_heads"]
    return Architecture(
        family=family,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        ffn_hidden_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        norm_epsilon=config["rms_norm_eps"],
        rotary_base=rope.get("rope_theta") or config.get("rope_theta") or 10000.0,
        tied_embeddings=config.get("tie_word_embeddings", False),
    )
