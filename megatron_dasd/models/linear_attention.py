"""Sizes of linear attention layers (gated delta nets) as a Hugging Face config has them."""

from dataclasses import dataclass
from typing import Any

from megatron_dasd.errors import UserError
from megatron_dasd.models.layer_types import FULL

CHUNK = 64
"""Tokens whose corrections are solved together, as many as in ``fla``."""
LINEAR = "linear_attention"
_SIZES = {
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
"""With what a model has whose config does not name them."""
_DEFAULT_INTERVAL = 4
"""Every fourth layer has full attention where the config names neither layers nor an interval."""


@dataclass(frozen=True)
class LinearAttention:
    """Layers of gated delta nets among those of softmax attention."""

    layers: tuple[bool, ...]
    """For every layer of the model whether its attention is linear."""
    num_key_heads: int
    num_value_heads: int
    """A multiple of the key heads: consecutive value heads share a key head."""
    key_head_dim: int
    value_head_dim: int
    conv_width: int
    """Tokens that the causal convolution sees, the token's own included."""

    @property
    def num_layers(self) -> int:
        """Layers whose attention is linear."""
        return sum(self.layers)

    @property
    def key_channels(self) -> int:
        """Channels of all keys, and as many of all queries."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_channels(self) -> int:
        """Channels of all values, and as many of their gate."""
        return self.num_value_heads * self.value_head_dim

    @property
    def in_proj_sections(self) -> tuple[int, int, int, int]:
        """Rows of Megatron's input projection: queries, keys and values; gate; beta; alpha."""
        heads = self.num_value_heads
        return 2 * self.key_channels + self.value_channels, self.value_channels, heads, heads

    def check_layout(self, tensor_parallel: int, context_parallel: int = 1) -> None:
        """Make sure that the heads divide over the ranks.

        Context-parallel ranks exchange their shares of the row for shares of the heads.

        Raises:
            UserError: they do not.
        """
        parts = tensor_parallel * context_parallel
        if self.num_key_heads % parts:  # value heads are a multiple of these
            raise UserError(
                f"tensor_parallel {tensor_parallel} x context_parallel {context_parallel} does not "
                f"divide the model's linear key heads ({self.num_key_heads})"
            )


def read_linear_attention(config: dict[str, Any], where: str) -> LinearAttention:
    """The linear attention layers of a parsed config.

    Args:
        where: the file, and where in it the config stands, for messages.

    Raises:
        UserError: a field has no usable value.
    """
    sizes = {field: config.get(field, default) for field, default in _SIZES.items()}
    for field, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"{where}{field}: {size!r} is no positive whole number")
    key_heads, value_heads = sizes["linear_num_key_heads"], sizes["linear_num_value_heads"]
    if value_heads % key_heads:
        raise UserError(
            f"{where}linear_num_value_heads: {value_heads} is no multiple of "
            f"linear_num_key_heads ({key_heads})"
        )
    return LinearAttention(
        layers=_layers(config, where),
        num_key_heads=key_heads,
        num_value_heads=value_heads,
        key_head_dim=sizes["linear_key_head_dim"],
        value_head_dim=sizes["linear_value_head_dim"],
        conv_width=sizes["linear_conv_kernel_dim"],
    )


def _layers(config: dict[str, Any], where: str) -> tuple[bool, ...]:
    number = config["num_hidden_layers"]
    kinds = config.get("layer_types")
    if not kinds:
        interval = config.get("full_attention_interval", _DEFAULT_INTERVAL)
        if type(interval) is not int or interval < 1:
            raise UserError(
                f"{where}full_attention_interval: {interval!r} is no positive whole number"
            )
        return tuple(bool((layer + 1) % interval) for layer in range(number))
    for kind in kinds:
        if kind not in (LINEAR, FULL):
            raise UserError(
                f"{where}layer_types: {kind!r} is not supported (only {LINEAR!r} and {FULL!r})"
            )
    if len(kinds) != number:
        raise UserError(
            f"{where}layer_types: names {len(kinds)} layers, num_hidden_layers is {number}"
        )
    return tuple(kind == LINEAR for kind in kinds)
