"""Architecture of a Hugging Face model as Megatron's flags.  A family is a row in a table.

Options of a config that Megatron would not honour are refused by name, never ignored: a model
that trains with another rotary embedding than it is served with is wrong without an error.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_dasd.errors import UserError
from megatron_dasd.models.config_fields import unknown_fields, unknown_outer_fields
from megatron_dasd.models.layer_types import FULL, read_rotated, read_window
from megatron_dasd.models.linear_attention import LinearAttention, read_linear_attention
from megatron_dasd.models.pipeline_stages import Stages
from megatron_dasd.models.rotary import Rotary, read_rotary

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
    attention_bias: bool = False
    """Whether ``attention_bias`` in a config puts biases on all four projections of attention."""
    windows: bool = False
    """Whether a config may ask for sliding windows, layer by layer."""
    no_rope_layers: bool = False
    """Whether a config may leave layers without rotary embedding."""
    rotary_percent: float = 1.0
    """Share of a head's channels that is rotated where the config does not say; 1: always all."""
    rope_theta: float = 10000.0
    """Base of the rotary embedding where the config names none."""
    tied: bool = False
    """Whether the output layer is the embedding where the config does not say."""
    prefix: str = "model."
    """What the names of the text model's tensors begin with, but for the output layer's."""
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

    @property
    def multimodal(self) -> bool:
        """Whether the text model is part of another one, which has a config around its config."""
        return self.prefix != "model."


_QWEN35 = Family(
    qk_layernorm=True,
    head_dim=256,
    linear_attention=True,
    zero_centred_norms=True,
    mtp=True,
    rotary_percent=0.25,
)
_QWEN35_EXPERTS = replace(_QWEN35, experts=True, shared_expert=True)
_TEXT_PART = "model.language_model."

FAMILIES = {
    "LlamaForCausalLM": Family(attention_bias=True),
    "Qwen2ForCausalLM": Family(qkv_bias=True, windows=True),
    "Qwen3ForCausalLM": Family(qk_layernorm=True, head_dim=128, attention_bias=True, windows=True),
    "Qwen3MoeForCausalLM": Family(qk_layernorm=True, experts=True, attention_bias=True),
    "SmolLM3ForCausalLM": Family(
        attention_bias=True, windows=True, no_rope_layers=True, rope_theta=2e6, tied=True
    ),
    "Qwen3VLForConditionalGeneration": Family(
        qk_layernorm=True, head_dim=128, attention_bias=True, rope_theta=5e5, prefix=_TEXT_PART
    ),
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5MoeForCausalLM": _QWEN35_EXPERTS,
    "Qwen3_5ForConditionalGeneration": replace(_QWEN35, prefix=_TEXT_PART),
    "Qwen3_5MoeForConditionalGeneration": replace(_QWEN35_EXPERTS, prefix=_TEXT_PART),
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
    rotary_base: float
    tied_embeddings: bool
    rotary: Rotary | None = None
    """The rotary embedding where it is more than its base."""
    attention_bias: bool = False
    """Whether all four projections of attention have biases."""
    rotated: tuple[bool, ...] = ()
    """Of each layer, whether it has rotary embedding; empty: all have it."""
    window: int | None = None
    """Tokens that a token of a layer with a window attends to, itself included."""
    windowed: tuple[bool, ...] = ()
    """Of each layer, whether it has the window."""
    experts: Experts | None = None
    linear: LinearAttention | None = None

    @property
    def padded_vocab_size(self) -> int:
        """Rows of Megatron's embedding matrix."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def check_layout(
        self,
        tensor_parallel: int,
        expert_parallel: int,
        stages: Stages | None = None,
        expert_tensor: int | None = None,
        context_parallel: int = 1,
    ) -> None:
        """Make sure that the model can be divided over the ranks of a layout.

        Args:
            stages: of the pipeline; None: they are given layer by layer, or there is one.
            expert_tensor: ranks that each expert is divided over; None: as every other matrix.
            context_parallel: ranks that share a row; linear attention divides its heads over them.

        Raises:
            UserError: naming what cannot be divided.
        """
        num_experts = self.experts.num_experts if self.experts else 1
        heads, groups = self.num_attention_heads, self.num_query_groups
        if self.experts:
            width, parts_of_width = self.experts.ffn_hidden_size, expert_tensor or tensor_parallel
            shared = self.experts.shared_ffn_hidden_size or 0
        else:
            width, parts_of_width, shared = self.ffn_hidden_size, tensor_parallel, 0
        for layout, parts, what, size in (
            ("tensor_parallel", tensor_parallel, "attention heads", heads),
            ("tensor_parallel", tensor_parallel, "padded vocabulary", VOCAB_MULTIPLE),
            ("tensor_parallel", parts_of_width, "feed-forward width", width),
            ("tensor_parallel", tensor_parallel, "shared expert's width", shared),
            ("tensor_parallel", tensor_parallel, "hidden size", self.hidden_size),
            (
                "tensor_parallel",
                tensor_parallel,
                "query, key and value channels",
                # with an output gate, every query head has as many channels again
                (heads * (2 if self.linear else 1) + 2 * groups) * self.head_dim,
            ),
            ("expert_parallel", expert_parallel, "experts", num_experts),
        ):
            if size % parts:
                raise UserError(f"{layout} {parts} does not divide the model's {what} ({size})")
        # With fewer key-value heads than ranks, several ranks work with the same one.
        if groups % tensor_parallel and tensor_parallel % groups:
            raise UserError(
                f"tensor_parallel {tensor_parallel} is neither a divisor nor a multiple of the "
                f"model's key-value heads ({groups})"
            )
        if stages:
            stages.check(self.num_layers)
        if self.linear:
            self.linear.check_layout(tensor_parallel, context_parallel)

    def flags(self, tensor_parallel: int, expert_parallel: int = 1) -> Flags:
        """Megatron's flags of this architecture, and those of this program beside them.

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
            "add-qkv-bias": self.family.qkv_bias or self.attention_bias,
            "dasd-attention-output-bias": self.attention_bias,
            "qk-layernorm": self.family.qk_layernorm,
            "untie-embeddings-and-output-weights": not self.tied_embeddings,
            "attention-dropout": 0.0,
            "hidden-dropout": 0.0,
            "apply-layernorm-1p": self.family.zero_centred_norms,
            **_NONE_HAS,
            **self._position_flags(),
            **self._expert_flags(),
            **self._linear_flags(),
        }

    def _linear_flags(self) -> Flags:
        if self.linear is None:
            return {"linear-attention-freq": None, "attention-output-gate": False}
        return {
            "experimental-attention-variant": "gated_delta_net",
            # Megatron's parser takes no spaces.
            "linear-attention-freq": _pattern(self.linear.layers),
            "attention-output-gate": True,
            "linear-num-key-heads": self.linear.num_key_heads,
            "linear-num-value-heads": self.linear.num_value_heads,
            "linear-key-head-dim": self.linear.key_head_dim,
            "linear-value-head-dim": self.linear.value_head_dim,
            "linear-conv-kernel-dim": self.linear.conv_width,
        }

    def _position_flags(self) -> Flags:
        """Where a token looks: rotary embedding and windows."""
        rotary = self.rotary or Rotary(self.rotary_base)
        scaled = rotary.is_megatrons and rotary.kind == "llama3"
        return {
            "position-embedding-type": "rope",
            "rotary-base": round(self.rotary_base),
            "rotary-percent": rotary.share,
            "use-rope-scaling": scaled,
            "rope-scaling-factor": rotary.factor if scaled else None,
            "dasd-rotary": None if rotary.is_megatrons else rotary.to_json(),
            # 1 in Megatron's list is a layer without rotary embedding
            "no-rope-freq": (
                None if all(self.rotated) else _pattern(not has for has in self.rotated)
            ),
            # keys to the left of a token and to its right
            "window-size": f"{self.window - 1},0" if self.window else None,
            "window-attn-skip-freq": _pattern(self.windowed) if self.window else None,
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


def _pattern(layers: Iterable[bool]) -> str:
    """Megatron's list of 0 and 1 by layer."""
    return f"[{','.join(str(int(layer)) for layer in layers)}]"


def read_architecture(folder: Path) -> Architecture:
    """Read ``config.json`` of a Hugging Face folder.

    Raises:
        UserError: no config there, an unknown family, or an option that Megatron would not honour.
    """
    path = folder / "config.json"
    config = _read_json(path)
    family = FAMILIES[_family_name(config, path)]
    for problem in config_problems(config, family, path):
        raise UserError(problem)
    text, where = text_config(config, family, path)
    return _from_config(text, family, where)


def config_problems(config: HfConfig, family: Family, path: Path) -> Iterator[str]:
    """All that stands against training a model of a config as one of a family.

    Args:
        path: of the config, for messages.
    """
    if family.multimodal:
        for name in unknown_outer_fields(config):
            yield f"{path}: field {name} {_UNKNOWN}"
    try:
        text, where = text_config(config, family, path)
    except UserError as error:
        yield str(error)
        return
    kinds = (family.experts, family.no_rope_layers, family.linear_attention)
    for name in unknown_fields(text, *kinds):
        yield f"{where}{name} {_UNKNOWN}"
    whole = True
    for name in (
        *_SIZES,
        *_DENSE_SIZES * (not family.shared_expert),
        *_EXPERT_SIZES * family.experts,
        *_SHARED_EXPERT_SIZES * family.shared_expert,
    ):
        size = text.get(_field(name, text))
        if size is None:
            yield f"{where}{_field(name, text)}: missing"
        elif type(size) is not int or size < 1:
            yield f"{where}{name}: {size!r} is no positive whole number"
        else:
            continue
        whole = False
    for name, value, only in _supported_values(text, family):
        if value != only:
            yield f"{where}{name}: {value!r} is not supported (only {only!r})"
    if whole:
        try:
            _from_config(text, family, where)
        except UserError as error:
            yield str(error)


_UNKNOWN = "is not known here and may change what the model computes; take it out if it does not"


def _read_json(path: Path) -> HfConfig:
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a Hugging Face model folder is needed") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a JSON object")
    return config


def _family_name(config: HfConfig, path: Path) -> str:
    name = next(iter(config.get("architectures") or ["?"]))
    if name in REFUSED:
        raise UserError(f"{path}: field architectures: {name} is not supported: {REFUSED[name]}")
    if name not in FAMILIES:
        raise UserError(f"{path}: field architectures: {name} is not one of {', '.join(FAMILIES)}")
    return str(name)


def text_config(config: HfConfig, family: Family, path: Path) -> tuple[HfConfig, str]:
    """The config of the text model, and how messages say where it stands.

    Of a multimodal model, whether the output layer is the embedding is said by the outer config, as
    ``transformers`` has it.

    Raises:
        UserError: the family is multimodal, and there is no config of its text model.
    """
    if not family.multimodal:
        return config, f"{path}: field "
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise UserError(f"{path}: field text_config: missing")
    tied = config.get("tie_word_embeddings", False)
    return {**text, "tie_word_embeddings": tied}, f"{path}: field text_config."


def _from_config(config: HfConfig, family: Family, where: str) -> Architecture:
    heads = config["num_attention_heads"]
    rotary = read_rotary(config, where, family.rope_theta, family.rotary_percent)
    rotated = read_rotated(config, where) if family.no_rope_layers else ()
    window, windowed = read_window(config, where, rotated) if family.windows else (None, ())
    epsilon = config.get("rms_norm_eps")
    if not isinstance(epsilon, int | float):
        raise UserError(f"{where}rms_norm_eps: {epsilon!r} is no number")
    experts = _experts(config, family, where) if family.experts else None
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
        norm_epsilon=epsilon,
        rotary_base=rotary.base,
        tied_embeddings=config.get("tie_word_embeddings", family.tied),
        rotary=rotary,
        attention_bias=bool(config.get("attention_bias")),
        rotated=rotated,
        window=window,
        windowed=windowed,
        experts=experts,
        linear=read_linear_attention(config, where) if family.linear_attention else None,
    )


def _supported_values(config: HfConfig, family: Family) -> Iterator[tuple[str, object, object]]:
    """Fields that Megatron's flags leave no choice in: name, value, the only one supported."""
    yield "tie_word_embeddings", type(config.get("tie_word_embeddings", family.tied)), bool
    yield "hidden_act", config.get("hidden_act", "silu"), "silu"
    yield "mlp_bias", config.get("mlp_bias", False), False
    if family.attention_bias:
        yield "attention_bias", type(config.get("attention_bias", False)), bool
    else:
        yield "attention_bias", config.get("attention_bias", False), False
    yield "attention_dropout", config.get("attention_dropout", 0.0), 0.0
    yield "rope_interleaved", config.get("rope_interleaved", False), False
    yield "is_causal", config.get("is_causal", True), True
    yield "is_decoder", config.get("is_decoder", False), False
    yield "add_cross_attention", config.get("add_cross_attention", False), False
    if family.linear_attention:
        yield "attn_output_gate", config.get("attn_output_gate", True), True
        yield "output_gate_type", config.get("output_gate_type", "swish"), "swish"
    elif not family.windows:
        yield "use_sliding_window", config.get("use_sliding_window", False), False
        for kind in config.get("layer_types") or []:
            yield "layer_types", kind, FULL
    yield "quantization_config", config.get("quantization_config"), None
    if family.experts:
        yield "decoder_sparse_step", config.get("decoder_sparse_step", 1), 1
        yield "mlp_only_layers", config.get("mlp_only_layers") or [], []
    if family.shared_expert:
        yield "norm_topk_prob", config.get("norm_topk_prob", True), True


def _field(name: str, config: HfConfig) -> str:
    """Transformers 5 writes num_experts under the name that its families share."""
    return "num_local_experts" if name == "num_experts" and "num_local_experts" in config else name


def _experts(config: HfConfig, family: Family, where: str) -> Experts:
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
            f"{where}num_experts_per_tok: 1 is not supported with norm_topk_prob: Megatron "
            "has no router whose one expert weighs 1"
        )
    return experts
