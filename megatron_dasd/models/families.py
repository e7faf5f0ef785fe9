"""Model families: a row says what a family has beyond the Llama shape."""

from dataclasses import dataclass, replace


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

REFUSED = {
    "GptOssForCausalLM": (
        "its weights are published in MXFP4, which Megatron has no option for (it has for the "
        "attention sinks, windows, biases, YaRN and clamped SwiGLU); they could go in only as "
        "other numbers, and not come back. As a teacher it is served, not trained"
    )
}
"""Families that one would look for here, and why they are not."""
