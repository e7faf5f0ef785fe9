from typing import Any

import pytest
from transformers import Qwen3_5TextConfig

from megatron_dasd.errors import UserError
from megatron_dasd.models.linear_attention import LinearAttention, read_linear_attention

HERE = "config.json: field "
CONFIG = {
    "num_hidden_layers": 5,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 3,
    "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 4,
}


def read(**changes: Any) -> LinearAttention:
    return read_linear_attention(CONFIG | changes, HERE)


def test_sizes_that_a_config_does_not_name_are_those_of_transformers() -> None:
    theirs = Qwen3_5TextConfig(num_hidden_layers=5)
    assert read_linear_attention({"num_hidden_layers": 5}, HERE) == LinearAttention(
        layers=tuple(kind == "linear_attention" for kind in theirs.layer_types or []),
        num_key_heads=theirs.linear_num_key_heads,
        num_value_heads=theirs.linear_num_value_heads,
        key_head_dim=theirs.linear_key_head_dim,
        value_head_dim=theirs.linear_value_head_dim,
        conv_width=theirs.linear_conv_kernel_dim,
    )


def test_every_fourth_layer_has_full_attention_by_default() -> None:
    assert read().layers == (True, True, True, False, True)
    assert read(full_attention_interval=2).layers == (True, False, True, False, True)
    assert read(full_attention_interval=2).num_layers == 3


def test_layers_by_name_go_before_the_interval() -> None:
    kinds = ["full_attention", *["linear_attention"] * 4]
    assert read(layer_types=kinds, full_attention_interval=2).layers == (False, *[True] * 4)


def test_sizes_of_the_projections() -> None:
    sizes = read()
    assert (sizes.key_channels, sizes.value_channels) == (6, 30)
    # 6 of queries, 6 of keys, 30 of values; as many gates as values; a number a value head twice
    assert sizes.in_proj_sections == (42, 30, 6, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_num_value_heads": 3}, "linear_num_value_heads: 3 is no multiple of .* \\(2\\)"),
        ({"linear_key_head_dim": 0}, "linear_key_head_dim: 0 is no positive whole number"),
        ({"linear_conv_kernel_dim": True}, "linear_conv_kernel_dim: True is no positive"),
        ({"full_attention_interval": 0}, "full_attention_interval: 0 is no positive"),
        ({"layer_types": ["linear_attention"]}, "names 1 layers, num_hidden_layers is 5"),
        ({"layer_types": ["sliding_attention"] * 5}, "'sliding_attention' is not supported"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"config.json: field .*{message}"):
        read(**changes)


def test_heads_go_over_tensor_and_context_parallel_ranks() -> None:
    sizes = read()
    sizes.check_layout(2)
    sizes.check_layout(1, 2)
    with pytest.raises(
        UserError, match=r"tensor_parallel 2 x context_parallel 2 does not divide .* heads \(2\)"
    ):
        sizes.check_layout(2, 2)
