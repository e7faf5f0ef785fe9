"""Weights and kept activations of a gated delta net on one rank (pure); symbols as in ``memory``.

Beyond those: N value heads (/ tensor parallel) of V channels, K channels of each of their keys.
Context-parallel ranks exchange shares of the row for shares of the heads, so that T x N is the same
before and behind.
"""

from megatron_dasd.models.linear_attention import CHUNK, LinearAttention

_WIDE = 4
"""Bytes of what is float32 in a model of 16 bits too."""


def weights(sizes: LinearAttention, hidden_size: int, tensor: int) -> int:
    """Weights of the layer on a rank, without the norm before it."""
    convolved = 2 * sizes.key_channels + sizes.value_channels
    shared = hidden_size * sum(sizes.in_proj_sections) + sizes.value_channels * hidden_size
    shared += convolved * sizes.conv_width + 2 * sizes.num_value_heads
    return shared // tensor + sizes.value_head_dim


def product_weights(sizes: LinearAttention, hidden_size: int, tensor: int) -> int:
    """Those of its two projections."""
    return hidden_size * (sum(sizes.in_proj_sections) + sizes.value_channels) // tensor


def activations(sizes: LinearAttention, tokens: float, element: int, local: bool) -> float:
    """Bytes that autograd keeps of a row, behind the norm before the layer and its result.

    Args:
        tokens: of the row, over the ranks that the row's heads are shared by.
        element: bytes of an element of activations.
        local: of the rule and convolution in torch, and the local layers; else of ``fla``'s
            kernels.  Of these it is what version 0.6 hands to ``save_for_backward``:
            ``CausalConv1dFunction`` its input alone, which is a view of the whole input
            projection; ``L2NormFunction`` its result; ``ChunkGatedDeltaRuleFunction`` queries, keys
            and values, summed decays and betas, and one triangular matrix of 64 columns.
    """
    n, k, v = sizes.num_value_heads, sizes.key_head_dim, sizes.value_head_dim
    keys, values = 2 * sizes.key_channels, sizes.value_channels
    # the norm's input and result and the gate, each in float32; their product
    gated = values * (4 * _WIDE + element)
    # decay: its softplus before and behind, the sum; beta
    scalars = n * (3 * _WIDE + 2 * element)
    if not local:
        projected = sum(sizes.in_proj_sections) * element
        normed = keys * element
        rule = n * (2 * k + v + CHUNK) * element
        return tokens * (projected + normed + rule + scalars + gated)
    # the convolution's input and result; queries and keys before their norm
    before = 2 * (keys + values) * element + keys * _WIDE
    per_head = 6 * k + 3 * v + 5 * CHUNK + k * v / CHUNK
    # in float32 the norm's result is kept once for both who need it
    gated -= values * (element if element == _WIDE else 0)
    return tokens * (before + n * per_head * _WIDE + scalars + gated)
