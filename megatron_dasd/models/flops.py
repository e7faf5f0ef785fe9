"""Floating-point operations of a model's matrix products.

Counted for the documents' own tokens, forwards and twice that backwards, as Chowdhery et al. do
(PaLM, arXiv 2204.02311, appendix B), but for two things: attention is causal, so half of it, and
goes by the documents' real lengths.  Recomputation and padding do not count as work.
"""

from dataclasses import dataclass

from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.linear_attention import LinearAttention

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bfloat16 operations/s by the GPU's name: NVIDIA's data sheets of the SXM modules."""

FLOAT32_SHARE = 1 / 16
"""Peak of float32 products (without TF32) over that of bfloat16, by the same data sheets: 67 of 989
for an H100, 19.5 of 312 for an A100, 80 of 2,250 for a B200; a half more or less."""


@dataclass(frozen=True)
class Products:
    """Sizes of a model that determine its matrix products."""

    num_layers: int
    hidden_size: int
    query_channels: int
    """Heads x channels of one."""
    key_channels: int
    ffn_hidden_size: int
    """Of one expert, where there are any."""
    vocab_size: int
    experts_per_token: int = 1
    num_experts: int = 0
    """Among which a router chooses; 0: none."""
    num_linear_layers: int = 0
    """Layers of gated delta nets in place of attention."""
    linear_products: int = 0
    """Multiply-adds of such a layer for a token, its feed-forward part left out."""
    gate_channels: int = 0
    """Of the gate of an attention layer's output."""
    shared_ffn_hidden_size: int = 0
    """Of an expert that every token meets; 0: there is none."""

    @property
    def weights_met(self) -> int:
        """Weights that a token is multiplied with, the embedding's left out."""
        channels = 2 * self.query_channels + 2 * self.key_channels + self.gate_channels
        attention = self.num_softmax_layers * self.hidden_size * channels
        linear = self.num_linear_layers * self.linear_products
        width = self.ffn_hidden_size * self.experts_per_token + self.shared_ffn_hidden_size
        router = self.hidden_size * (self.num_experts + (self.shared_ffn_hidden_size > 0))
        mlp = self.num_layers * (3 * self.hidden_size * width + router)
        return attention + linear + mlp + self.hidden_size * self.vocab_size

    @property
    def num_softmax_layers(self) -> int:
        """Layers whose work grows with the square of a document's length."""
        return self.num_layers - self.num_linear_layers

    def training_flops(self, num_tokens: float, squared_lengths: float) -> float:
        """Operations of training on some documents.

            6 (sum_d n_d) weights_met + 6 softmax_layers query_channels sum_d n_d^2

        A gated delta net counts as its recurrence: for every head and token its state is read for
        the key, written to, and read for the query.

        Args:
            num_tokens: sum over the documents d of their tokens n_d.
            squared_lengths: sum of n_d^2.
        """
        pairs = self.num_softmax_layers * self.query_channels * squared_lengths
        return 6.0 * (num_tokens * self.weights_met + pairs)


def products_of(architecture: Architecture) -> Products:
    """The sizes that a model's matrix products depend on."""
    a, experts, linear = architecture, architecture.experts, architecture.linear
    return Products(
        num_layers=a.num_layers,
        hidden_size=a.hidden_size,
        query_channels=a.num_attention_heads * a.head_dim,
        key_channels=a.num_query_groups * a.head_dim,
        ffn_hidden_size=experts.ffn_hidden_size if experts else a.ffn_hidden_size,
        vocab_size=a.vocab_size,
        experts_per_token=experts.experts_per_token if experts else 1,
        num_experts=experts.num_experts if experts else 0,
        num_linear_layers=linear.num_layers if linear else 0,
        linear_products=_linear_products(a.hidden_size, linear) if linear else 0,
        gate_channels=a.num_attention_heads * a.head_dim if linear else 0,
        shared_ffn_hidden_size=(experts.shared_ffn_hidden_size or 0) if experts else 0,
    )


def _linear_products(hidden_size: int, sizes: LinearAttention) -> int:
    """Multiply-adds of a gated delta net for a token: projections, convolution, state."""
    projections = hidden_size * (sum(sizes.in_proj_sections) + sizes.value_channels)
    convolved = sizes.conv_width * (2 * sizes.key_channels + sizes.value_channels)
    return projections + convolved + 3 * sizes.value_channels * sizes.key_head_dim


def peak_flops(gpu: str) -> float | None:
    """Operations/s of a GPU by its name; None: not known here."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in gpu), None)
