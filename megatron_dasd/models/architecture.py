"""Architecture of a Hugging Face model as Megatron's flags.  A family is a row in a table.

Options of a config that Megatron would not honour are refused by name, never ignored: a model
that trains with another rotary embedding than it is served with is wrong without an error.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_dasd.errors import UserError
from megatron_dasd.models.config_fields import unknown_fields
from megatron_dasd.models.linear_attention import (
    FULL,
    LinearAttention,
    read_linear_attention,
)

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
    linear_attention: bool = False
    """Whether some layers are gated delta nets.  The others then have an output gate: the query
    projection makes, for every head, as many channels again, whose sigmoid scales the head's
    output."""
    zero_centred_norms: bool = False
    """Whether norms scale by 1 + weight."""
    shared_expert: bool = False
    """Whether every token also meets a shared expert, scaled by the sigmoid of a gate, and layers
    without experts do not occur."""
    mtp: bool = False
    """Whether its models may come with heads that guess several tokens ahead."""
    rotary_percent: float = 1.0
    """Share of a head's channels that turn with the position, where the config names none."""


_QWEN35 = Family(
    qk_layernorm=True,
    head_dim=256,
    linear_attention=True,
    zero_centred_norms=True,
    mtp=True,
    rotary_percent=0.25,
)

FAMILIES = {
    "LlamaForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(qkv_bias=True),
    "Qwen3ForCausalLM": Family(qk_layernorm=True, head_dim=128),
    "Qwen3MoeForCausalLM": Family(qk_layernorm=True, experts=True),
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5MoeForCausalLM": replace(_QWEN35, experts=True, shared_expert=True),
}
"""Families by the class that ``transformers`` loads them with."""

_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
_DENSE_SIZES = ("intermediate_size",)
_SHARED_EXPERT_SIZES = ("shared_expert_intermediate_size",)
_EXPERT_SIZES = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
_NONE_HAS: Flags = {
    "rotary-interleaved": False,
    "rotary-seq-len-interpolation-factor": None,
    "no-rope-freq": None,
    "window-size": None,
    "softmax-type": "vanilla",
    "multi-latent-attention": False,
    "squared-relu": False,
    "quick-geglu": False,
    "mtp-num-layers": None,
    "moe-layer-freq": 1,
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
    """Routed experts, the same in every layer."""

    num_experts: int
    experts_per_token: int
    ffn_hidden_size: int
    weights_sum_to_one: bool
    """Whether the weights of a token's experts are a softmax over these alone (``norm_topk_prob``),
    or these experts' part of the softmax over all."""
    shared_ffn_hidden_size: int | None = None
    """Width of the gated expert that every token meets; None: there is none."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder-only model of the Llama shape (RMSNorm, SwiGLU, RoPE, grouped queries).

    Some of its layers may be gated delta nets in place of attention.
    """

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
    rotary_percent: float = 1.0
    """Share of a head's channels that turn with the position."""
    linear: LinearAttention | None = None

    @property
    def padded_vocab_size(self) -> int:
        """Rows of Megatron's embedding matrix."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def check_layout(
        self,
        tensor_parallel: int,
        expert_parallel: int,
        stages: int = 1,
        expert_tensor: int = 1,
        context_parallel: int = 1,
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
            shared = self.experts.shared_ffn_hidden_size or 0
        else:
            width, parts_of_width, shared = self.ffn_hidden_size, tensor_parallel, 0
        for layout, parts, what, size in (
            ("tensor_parallel", tensor_parallel, "attention heads", self.num_attention_heads),
            ("tensor_parallel", tensor_parallel, "key-value heads", self.num_query_groups),
            ("tensor_parallel", tensor_parallel, "padded vocabulary", VOCAB_MULTIPLE),
            ("tensor_parallel", parts_of_width, "feed-forward width", width),
            ("tensor_parallel", tensor_parallel, "shared expert's width", shared),
            ("tensor_parallel", tensor_parallel, "hidden size", self.hidden_size),
            ("expert_parallel", expert_parallel, "experts", num_experts),
            ("pipeline_parallel x virtual_pipeline", stages, "layers", self.num_layers),
        ):
            if size % parts:
                raise UserError(f"{layout} {parts} does not divide the model's {what} ({size})")
        if self.linear:
            self.linear.check_layout(tensor_parallel, context_parallel)

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
            "rotary-percent": self.rotary_percent,
            "use-rope-scaling": self.rope_scaling_factor is not None,
            "rope-scaling-factor": self.rope_scaling_factor,
            "untie-embeddings-and-output-weights": not self.tied_embeddings,
            "attention-dropout": 0.0,
            "hidden-dropout": 0.0,
            "apply-layernorm-1p": self.family.zero_centred_norms,
            **_NONE_HAS,
            **self._expert_flags(),
            **self._linear_flags(),
        }

    def _linear_flags(self) -> Flags:
        if self.linear is None:
            return {"linear-attention-freq": None, "attention-output-gate": False}
        return {
            "experimental-attention-variant": "gated_delta_net",
            # Megatron's parser takes no spaces.
            "linear-attention-freq": f"[{','.join(str(int(x)) for x in self.linear.layers)}]",
            "attention-output-gate": True,
            "linear-num-key-heads": self.linear.num_key_heads,
            "linear-num-value-heads": self.linear.num_value_heads,
            "linear-key-head-dim": self.linear.key_head_dim,
            "linear-value-head-dim": self.linear.value_head_dim,
            "linear-conv-kernel-dim": self.linear.conv_width,
        }

    def _expert_flags(self) -> Flags:
        shared = self.experts.shared_ffn_hidden_size if self.experts else None
        gated: Flags = {
            "moe-shared-expert-intermediate-size": shared,
            "moe-shared-expert-gate": shared is not None,
        }
        if self.experts is None:
            return {"num-experts": None, **gated}
        return {
            "num-experts": self.experts.num_experts,
            "moe-router-topk": self.experts.experts_per_token,
            "moe-ffn-hidden-size": self.experts.ffn_hidden_size,
            "moe-router-score-function": "softmax",
            "moe-router-pre-softmax": not self.experts.weights_sum_to_one,
            **gated,
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
    family = FAMILIES[name]
    for field in unknown_fields(config, family.experts, family.linear_attention):
        raise UserError(
            f"{path}: field {field} is not known here and may change what the model computes; "
            "take it out if it does not"
        )
    try:
        return _from_config(config, family, path)
    except KeyError as error:
        raise UserError(f"{path}: field {error.args[0]}: missing") from None


def _from_config(config: HfConfig, family: Family, path: Path) -> Architecture:
    for field in (
        *_SIZES,
        *_DENSE_SIZES * (not family.shared_expert),
        *_EXPERT_SIZES * family.experts,
        *_SHARED_EXPERT_SIZES * family.shared_expert,
    ):
        size = config[_field(field, config)]
        if type(size) is not int or size < 1:
            raise UserError(f"{path}: field {field}: {size!r} is no positive whole number")
    for field, value, only in _supported_values(config, family):
        if value != only:
            raise UserError(f"{path}: field {field}: {value!r} is not supported (only {only!r})")
    heads = config["num_attention_heads"]
    rotary_base, scaling_factor, rotary_percent = _rotary(config, family, path)
    experts = _experts(config, family, path) if family.experts else None
    return Architecture(
        family=family,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or family.head_dim or config["hidden_size"] // heads,
        # Megatron wants a width of dense layers of a model without any, too.
        ffn_hidden_size=(
            experts.ffn_hidden_size
            if experts and family.shared_expert
            else config["intermediate_size"]
        ),
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        norm_epsilon=config["rms_norm_eps"],
        rotary_base=rotary_base,
        tied_embeddings=config.get("tie_word_embeddings", False),
        rope_scaling_factor=scaling_factor,
        experts=experts,
        rotary_percent=rotary_percent,
        linear=read_linear_attention(config, f"{path}: field ")
        if family.linear_attention
        else None,
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
    if family.linear_attention:
        yield "attn_output_gate", config.get("attn_output_gate", True), True
        yield "output_gate_type", config.get("output_gate_type", "swish"), "swish"
    else:
        for kind in config.get("layer_types") or []:
            yield "layer_types", kind, FULL
    yield "quantization_config", config.get("quantization_config"), None
    if family.experts:
        yield "decoder_sparse_step", config.get("decoder_sparse_step", 1), 1
        yield "mlp_only_layers", config.get("mlp_only_layers") or [], []
    if family.shared_expert:
        yield "norm_topk_prob", config.get("norm_topk_prob", True), True


def _rotary(config: HfConfig, family: Family, path: Path) -> tuple[int, float | None, float]:
    """Base of the rotary embedding, factor of its scaling, and the share of channels that turn."""
    # transformers 5 nests the rotary settings, earlier versions do not; the old name goes first.
    field = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(field) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    refused = f"{path}: field {field}"
    if kind not in ("default", "llama3") or any(isinstance(x, dict) for x in rope.values()):
        raise UserError(f"{refused}: {rope} is not supported (only rope_type default and llama3)")
    whole = family.rotary_percent
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", whole))
    if not isinstance(share, int | float) or not 0 < share <= 1 or (whole == 1 and share != 1):
        raise UserError(
            f"{path}: field partial_rotary_factor: {share} is not supported "
            f"({'only 1.0' if whole == 1 else 'above 0, at most 1'})"
        )
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    if not isinstance(theta, int | float) or theta != int(theta):
        raise UserError(
            f"{path}: field rope_theta: {theta} is not a whole number, which Megatron needs"
        )
    if kind == "default":
        return int(theta), None, float(share)
    trained = "original_max_position_embeddings"
    length = config.get(trained) or rope.get(trained) or config["max_position_embeddings"]
    for name, constant in LLAMA3_SCALING.items():
        value = length if name == trained else rope[name]
        if value != constant:
            raise UserError(
                f"{refused}: {name} {value} is not supported: Megatron holds it at {constant}"
            )
    return int(theta), rope["factor"], float(share)


def _field(name: str, config: HfConfig) -> str:
    """Transformers 5 writes num_experts under the name that its families share."""
    return "num_local_experts" if name == "num_experts" and "num_local_experts" in config else name


def _experts(config: HfConfig, family: Family, path: Path) -> Experts:
    experts = Experts(
        num_experts=config[_field("num_experts", config)],
        experts_per_token=config["num_experts_per_tok"],
        ffn_hidden_size=config["moe_intermediate_size"],
        weights_sum_to_one=config.get("norm_topk_prob", family.shared_expert),
        shared_ffn_hidden_size=(
            config["shared_expert_intermediate_size"] if family.shared_expert else None
        ),
    )
    if experts.experts_per_token == 1 and experts.weights_sum_to_one:
        raise UserError(
            f"{path}: field num_experts_per_tok: 1 is not supported with norm_topk_prob: Megatron "
            "has no router whose one expert weighs 1"
        )
    return experts
