from argparse import Namespace
from typing import Any

import pytest

from megatron_dasd.config.choices import Precision
from megatron_dasd.errors import UserError
from megatron_dasd.precision.requirements import (
    emulation_problem,
    machine_problem,
    require,
    shape_problem,
)

QWEN3_4B = {
    "hidden_size": 2560,
    "ffn_hidden_size": 9728,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "group_query_attention": True,
    "num_query_groups": 8,
    "num_experts": None,
    "moe_layer_freq": 1,
    "tensor_model_parallel_size": 4,
    "expert_tensor_parallel_size": None,
    "context_parallel_size": 2,
    "sequence_parallel": True,
    "micro_batch_size": 1,
    "seq_length": 65_536,
    "fp8_recipe": "blockwise",
    "fp8_wgrad": True,
    "recompute_granularity": None,
    "attention_output_gate": False,
    "experimental_attention_variant": None,
    "moe_shared_expert_intermediate_size": None,
}
DELTA_NET = {
    "experimental_attention_variant": "gated_delta_net",
    "attention_output_gate": True,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
H100 = (9, 0)


def arguments(**changes: Any) -> Namespace:
    return Namespace(**(QWEN3_4B | changes))


def test_a_full_size_student_fits() -> None:
    assert shape_problem(arguments()) is None
    assert shape_problem(arguments(**DELTA_NET)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            # (2 x 2048 + 2 x 4096 + 2 x 32) / 8 = 1544
            DELTA_NET | {"tensor_model_parallel_size": 8},
            "linear attention's projection per tensor-parallel rank is 1544, no multiple of 16",
        ),
        (
            {"moe_shared_expert_intermediate_size": 96},
            "shared expert's width per tensor-parallel rank is 24, no multiple of 16",
        ),
        ({"hidden_size": 2568}, "hidden size is 2568, no multiple of 16; choose another layout"),
        (
            {"num_attention_heads": 12, "num_query_groups": 4, "kv_channels": 20},
            "attention width per tensor-parallel rank is 60, no multiple of 16",
        ),
        (
            # 16 x 4 / 4 = 16 fits, (16 + 1 + 1) x 4 / 4 = 18 does not
            {"num_attention_heads": 16, "num_query_groups": 1, "kv_channels": 4},
            "width of query, key and value per tensor-parallel rank is 18, no multiple of 16",
        ),
        (
            {"ffn_hidden_size": 96},
            "MLP width per tensor-parallel rank is 24, no multiple of 16",
        ),
        (
            {"num_experts": 8, "moe_ffn_hidden_size": 776, "expert_tensor_parallel_size": 1},
            "expert width per expert-tensor-parallel rank is 776, no multiple of 16",
        ),
        ({"seq_length": 24}, "row of tokens per context-parallel rank is 12, no multiple of 16"),
        ({"seq_length": 32}, "row of tokens per sequence-parallel rank is 4, no multiple of 8"),
    ],
)
def test_a_dimension_that_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    problem = shape_problem(arguments(**changes))
    assert problem is not None
    assert problem.startswith(message)


def test_a_model_of_experts_alone_has_no_dense_width() -> None:
    changes = {"num_experts": 8, "moe_ffn_hidden_size": 768, "ffn_hidden_size": 97}
    assert shape_problem(arguments(**changes)) is None
    problem = shape_problem(arguments(**changes, moe_layer_freq=[0, 1]))
    assert problem is not None
    assert "MLP width" in problem


@pytest.mark.parametrize(
    ("precision", "engine", "capability", "cuda", "message"),
    [
        ("fp8-blockwise", (2, 20, 2), H100, (13, 0), None),
        ("fp8-blockwise", (2, 20, 2), H100, (12, 9), None),
        ("fp8-tensorwise", (2, 20, 2), (8, 9), (12, 1), None),
        ("fp8-delayed", (2, 20, 2), (10, 0), (13, 0), None),
        (None, (2, 20, 2), (10, 0), (13, 0), None),
        (None, None, (10, 0), (13, 0), "Transformer Engine is not installed"),
        ("fp8-delayed", None, H100, (13, 0), "Transformer Engine is not installed"),
        ("fp8-tensorwise", (2, 1), H100, (13, 0), "Transformer Engine 2.2 or newer, here is 2.1"),
        ("fp8-blockwise", (2, 2, 1), H100, (13, 0), "2.3 or newer, here is 2.2.1; upgrade it"),
        ("fp8-tensorwise", (2, 20), (8, 0), (13, 0), "8.9 or higher (H100: 9.0), a GPU has 8.0"),
        ("fp8-blockwise", (2, 20), (8, 9), (13, 0), "9.0 or higher (H100: 9.0), a GPU has 8.9"),
        ("fp8-blockwise", (2, 20), H100, (12, 8), "CUDA 12.9 or newer, here it is 12.8"),
        ("fp8-blockwise", (2, 20), H100, (12, 8), "or choose fp8-tensorwise"),
        ("fp8-delayed", (2, 20), H100, (12, 0), "CUDA 12.1 or newer, here it is 12.0"),
    ],
)
def test_what_a_gpu_machine_lacks(
    precision: Precision | None,
    engine: tuple[int, ...] | None,
    capability: tuple[int, int],
    cuda: tuple[int, int],
    message: str | None,
) -> None:
    problem = machine_problem(precision, engine, "a GPU", capability, cuda)
    if message is None:
        assert problem is None
    else:
        assert problem is not None
        assert message in problem


def test_what_is_not_emulated_is_refused() -> None:
    assert emulation_problem(arguments()) is None
    problem = emulation_problem(arguments(fp8_recipe="mxfp8"))
    assert problem is not None
    assert "choose one of fp8-blockwise, fp8-tensorwise, fp8-delayed" in problem
    problem = emulation_problem(arguments(fp8_wgrad=False))
    assert problem is not None
    assert "no-fp8-wgrad" in problem
    assert emulation_problem(arguments(recompute_granularity="full")) is None
    delayed = arguments(recompute_granularity="full", fp8_recipe="delayed")
    assert "recomputation" in str(emulation_problem(delayed))


def test_the_message_names_the_precision() -> None:
    with pytest.raises(UserError, match="^precision fp8-blockwise: hidden size is 2568, no mult"):
        require(arguments(hidden_size=2568))
    with pytest.raises(UserError, match="^precision fp8 mxfp8: is not emulated"):
        require(arguments(fp8_recipe="mxfp8"))
