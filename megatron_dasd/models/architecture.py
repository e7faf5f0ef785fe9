"""Architecture of a model, and the flags of Megatron that express it (pure)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.errors import UserError
from megatron_dasd.models.families import Family
from megatron_dasd.models.linear_attention import LinearAttention
from megatron_dasd.models.pipeline_stages import Stages
from megatron_dasd.models.rotary import Rotary

VOCAB_MULTIPLE = 128
"""The vocabulary is padded to a multiple of this under every layout, so that layouts can change."""

Flag = bool | int | float | str | Path | list[int | float | str] | None
Flags = dict[str, Flag]
"""Megatron flags by name, without dashes: True is a bare flag, a list its several values."""

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
