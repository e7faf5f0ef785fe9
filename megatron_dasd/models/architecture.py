"""Architecture of a Hugging Face model as Megatron's flags.  A family is a row in a table.

Options of a config that Megatron would not honour are refused by name, never ignored: a model
that trains with another rotary embedding than it is served with is wrong without an error.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dasd.errors import UserError
from megatron_dasd.models.config_fields import unknown_fields

HfConfig = dict[str, Any]  # a config.json as parsed: its fields are checked one by one
VOCAB_MULTIPLE = 128
"""The vocabulary is padded to a multiple of this under every layout, so that layouts can change."""

Flag = bool | int | float | str | Path | list[int | float | str] | None
Flags = dict[str, Flag]
"""Megatron flags by name, without dashes: True is a bare flag, a list its several values."""


@dataclass(frozen=True)
class Family:
    """What a model family has beyond the Llama shape."""

    qk_layernorm: bool = False
    qkv_bias: bool = False
    experts: bool = False
    """Whether every layer's feed-forward part is routed experts."""
    head_dim: int | None = None
    """Channels a head where the config names none; None: hidden size over heads."""


FAMILIES = {
    "LlamaForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(qkv_bias=True),
    "Qwen3ForCausalLM": Family(qk_layernorm=True, head_dim=128),
    "Qwen3MoeForCausalLM": Family(qk_layernorm=True, experts=True),
}
"""Families by the class that ``transformers`` loads them with."""

_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
_EXPERT_SIZES = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
_NONE_HAS: Flags = {
    "rotary-percent": 1.0,
    "rotary-interleaved": False,
    "rotary-seq-len-interpolation-factor": None,
    "no-rope-freq": None,
    "window-size": None,
    "softmax-type": "vanilla",
    "multi-latent-attention": False,
    "squared-relu": False,
    "quick-geglu": False,
    "apply-layernorm-1p": False,
    "mtp-num-layers": None,
    "moe-layer-freq": 1,
    "moe-shared-expert-intermediate-size": None,
    "moe-router-topk-scaling-factor": None,
    "moe-router-enable-expert-bias": False,
    "moe-expert-capacity-factor": None,
}
"""What Megatron has flags for and no family here has, so that typing one is a contradiction."""

REFUSED = {
    "GptOssForCausalLM": (
        "its weights are published in MXFP4, which Megatron has no option for (it has for the "
        "attention sinks, windows, biases, YaRN and clamped SwiGLU); they could go in only as "
        "other numbers, and not come back. As a teacher it is served, not trained"
    )
}
"""Families that one would look for here, and why they are not."""

LLAMA3_SCALING = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""Of Llama 3's rotary scaling Megatron's flags set the factor; these it holds as constants
(``RotaryEmbedding._apply_scaling``)."""


@dataclass(frozen=True)
class Experts:
    """Routed experts, the same in every layer, without shared ones."""

    num_experts: int
    experts_per_token: int
    ffn_hidden_size: int
    weights_sum_to_one: bool
    """Whether the weights of a token's experts are a softmax over these alone (``norm_topk_prob``),
    or these experts' part of the softmax over all."""


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
    rotary_base: int
    tied_embeddings: bool
    rope_scaling_factor: float | None = None
    """Factor of Llama 3's rotary scaling; None: no scaling."""
    experts: Experts | None = None

    @property
    def padded_vocab_size(self) -> int:
        """Rows of Megatron's embedding matrix."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def check_layout(
        self, tensor_parallel: int, expert_parallel: int, stages: int = 1, expert_tensor: int = 1
    ) -> None:
        """Make sure that the model can be divided over the ranks of a layout.

        Args:
            expert_tensor: ranks that each expert is divided over.
            stages: of the pipeline, virtual ones counted; 1 where they are given layer by layer.

        Raises:
            UserError: naming what cannot be divided.
        """
        num_experts = self.experts.num_experts if self.experts else 1
        if self.experts:
            width, parts_of_width = self.experts.ffn_hidden_size, expert_tensor
        else:
            width, parts_of_width = self.ffn_hidden_size, tensor_parallel
        for layout, parts, what, size in (
            ("tensor_parallel", tensor_parallel, "attention heads", self.num_attention_heads),
            ("tensor_parallel", tensor_parallel, "key-value heads", self.num_query_groups),
            ("tensor_parallel", tensor_parallel, "padded vocabulary", VOCAB_MULTIPLE),
            ("tensor_parallel", parts_of_width, "feed-forward width", width),
            ("tensor_parallel", tensor_parallel, "hidden size", self.hidden_size),
            ("expert_parallel", expert_parallel, "experts", num_experts),
            ("pipeline_parallel x virtual_pipeline", stages, "layers", self.num_layers),
        ):
            if size % parts:
                raise UserError(f"{layout} {parts} does not divide the model's {what} ({size})")

    def flags(self, tensor_parallel: int, expert_parallel: int = 1) -> Flags:
        """Megatron's flags of this architecture.

        Raises:
            UserError: the heads, the vocabulary or the experts cannot be split over the ranks.
        """
        self.check_layout(tensor_parallel, expert_parallel)
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
            "rotary-base": self.rotary_base,
            "use-rope-scaling": self.rope_scaling_factor is not None,
            "rope-scaling-factor": self.rope_scaling_factor,
            "untie-embeddings-and-output-weights": not self.tied_embeddings,
            "attention-dropout": 0.0,
            "hidden-dropout": 0.0,
            **_NONE_HAS,
            **self._expert_flags(),
        }

    def _expert_flags(self) -> Flags:
        if self.experts is None:
            return {"num-experts": None}
        return {
            "num-experts": self.experts.num_experts,
            "moe-router-topk": self.experts.experts_per_token,
            "moe-ffn-hidden-size": self.experts.ffn_hidden_size,
            "moe-router-score-function": "softmax",
            "moe-router-pre-softmax": not self.experts.weights_sum_to_one,
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
        raise UserError(f"{path}: no such file; a Hugging Face model folder is needed") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a JSON object")
    name = next(iter(config.get("architectures") or ["?"]))
    if name in REFUSED:
        raise UserError(f"{path}: field architectures: {name} is not supported: {REFUSED[name]}")
    if name not in FAMILIES:
        raise UserError(f"{path}: field architectures: {name} is not one of {', '.join(FAMILIES)}")
    for field in unknown_fields(config, FAMILIES[name].experts):
        raise UserError(
            f"{path}: field {field} is not known here and may change what the model computes; "
            "take it out if it does not"
        )
    try:
        return _from_config(config, FAMILIES[name], path)
    except KeyError as error:
        raise UserError(f"{path}: field {error.args[0]}: missing") from None


def _from_config(config: HfConfig, family: Family, path: Path) -> Architecture:
    for field in _SIZES + _EXPERT_SIZES * family.experts:
        size = config[_field(field, config)]
        if type(size) is not int or size < 1:
            raise UserError(f"{path}: field {field}: {size!r} is no positive whole number")
    for field, value, only in _supported_values(config, family):
        if value != only:
            raise UserError(f"{path}: field {field}: {value!r} is not supported (only {only!r})")
    heads = config["num_attention_heads"]
    rotary_base, scaling_factor = _rotary(config, path)
    return Architecture(
        family=family,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or family.head_dim or config["hidden_size"] // heads,
        ffn_hidden_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        norm_epsilon=config["rms_norm_eps"],
        rotary_base=rotary_base,
        tied_embeddings=config.get("tie_word_embeddings", False),
        rope_scaling_factor=scaling_factor,
        experts=_experts(config, path) if family.experts else None,
    )


def _supported_values(config: HfConfig, family: Family) -> Iterator[tuple[str, object, object]]:
    """Fields that Megatron's flags leave no choice in: name, value, the only one supported."""
    yield "tie_word_embeddings", type(config.get("tie_word_embeddings", False)), bool
    yield "hidden_act", config.get("hidden_act", "silu"), "silu"
    yield "mlp_bias", config.get("mlp_bias", False), False
    yield "attention_bias", config.get("attention_bias", False), False
    yield "attention_dropout", config.get("attention_dropout", 0.0), 0.0
    yield "rope_interleaved", config.get("rope_interleaved", False), False
    yield "is_causal", config.get("is_causal", True), True
    yield "is_decoder", config.get("is_decoder", False), False
    yield "add_cross_attention", config.get("add_cross_attention", False), False
    yield "use_sliding_window", config.get("use_sliding_window", False), False
    for kind in config.get("layer_types") or []:
        yield "layer_types", kind, "full_attention"
    yield "quantization_config", config.get("quantization_config"), None
    if family.experts:
        yield "decoder_sparse_step", config.get("decoder_sparse_step", 1), 1
        yield "mlp_only_layers", config.get("mlp_only_layers") or [], []


def _rotary(config: HfConfig, path: Path) -> tuple[int, float | None]:
    """Base of the rotary embedding and factor of its scaling."""
    # transformers 5 nests the rotary settings, earlier versions do not; the old name goes first.
    field = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(field) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    refused = f"{path}: field {field}"
    if kind not in ("default", "llama3") or any(isinstance(x, dict) for x in rope.values()):
        raise UserError(f"{refused}: {rope} is not supported (only rope_type default and llama3)")
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if share != 1.0:
        raise UserError(f"{path}: field partial_rotary_factor: {share} is not supported (only 1.0)")
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    if not isinstance(theta, int | float) or theta != int(theta):
        raise UserError(
            f"{path}: field rope_theta: {theta} is not a whole number, which Megatron needs"
        )
    if kind == "default":
        return int(theta), None
    trained = "original_max_position_embeddings"
    length = config.get(trained) or rope.get(trained) or config["max_position_embeddings"]
    for name, constant in LLAMA3_SCALING.items():
        value = length if name == trained else rope[name]
        if value != constant:
            raise UserError(
                f"{refused}: {name} {value} is not supported: Megatron holds it at {constant}"
            )
    return int(theta), rope["factor"]


def _field(name: str, config: HfConfig) -> str:
    """Transformers 5 writes num_experts under the name that its families share."""
    return "num_local_experts" if name == "num_experts" and "num_local_experts" in config else name


def _experts(config: HfConfig, path: Path) -> Experts:
    experts = Experts(
        num_experts=config[_field("num_experts", config)],
        experts_per_token=config["num_experts_per_tok"],
        ffn_hidden_size=config["moe_intermediate_size"],
        weights_sum_to_one=config.get("norm_topk_prob", False),
    )
    if experts.experts_per_token == 1 and experts.weights_sum_to_one:
        raise UserError(
            f"{path}: field num_experts_per_tok: 1 is not supported with norm_topk_prob: Megatron "
            "has no router whose one expert weighs 1"
        )
    return experts
