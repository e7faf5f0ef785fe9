"""What is typed for Megatron, and what no rank has to find out."""

from typing import Any

import pytest

from megatron_dasd.config.base import Launch
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Architecture, Experts
from megatron_dasd.models.families import FAMILIES
from megatron_dasd.models.hf_flags import check_launch
from megatron_dasd.training.flags import check_typed

DENSE = Architecture(
    family=FAMILIES["Qwen3ForCausalLM"],
    num_layers=6,
    hidden_size=64,
    num_attention_heads=8,
    num_query_groups=4,
    head_dim=8,
    ffn_hidden_size=90,
    vocab_size=130,
    max_position_embeddings=64,
    norm_epsilon=1e-5,
    rotary_base=10000,
    tied_embeddings=True,
)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--micro-batch-size", "2"], "--micro-batch-size is not to be given: rows are packed"),
        (["--seq-length=64"], "--seq-length is not to be given: it follows from the data"),
        (["--no-calculate-per-token-loss"], "rows are packed"),
        (["--global_batch_size", "4"], "--global_batch_size: Megatron writes it --global-batch-si"),
        (["--moe-router-load-balancing-type", "sinkhorn"], "sinkhorn is not supported"),
        (["--finetune", "--load", "a", "--save", "./a"], "begins at step 0 at every start"),
    ],
)
def test_a_flag_that_would_change_the_loss_in_silence(argv: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_typed(argv)


def test_other_flags_are_megatrons() -> None:
    check_typed(["--finetune", "--load", "a", "--save", "b", "--lr", "-1e-3"])
    check_typed(["--override-opt_param-scheduler", "--moe-router-load-balancing-type", "aux_loss"])


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ({"num_ranks": 4, "pipeline_parallel": 4}, "4 does not divide the model's layers .6."),
        (
            {"num_ranks": 2, "pipeline_parallel": 2, "virtual_pipeline": 2},
            "4 does not divide the model's layers .6.",
        ),
        ({"num_ranks": 4, "tensor_parallel": 4}, "4 does not divide the model's feed-forward wid"),
        ({"num_ranks": 8, "tensor_parallel": 8}, "8 does not divide the model's feed-forward wid"),
        (
            {"num_ranks": 2, "pipeline_parallel": 2, "first_stage_layers": 6},
            "leave 0 of the model's 6 layers to 1 other pipeline stages",
        ),
        (
            {"num_ranks": 4, "pipeline_parallel": 4, "last_stage_layers": 1},
            "3 middle stages do not divide the 5 layers",
        ),
    ],
)
def test_a_layout_that_cannot_hold_the_model(launch: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_launch(DENSE, Launch(**launch), {})


def test_layers_and_widths_that_flags_divide_otherwise() -> None:
    pipeline = Launch(num_ranks=4, pipeline_parallel=4)
    check_launch(DENSE, pipeline, {"pipeline-model-parallel-layout": "Ett|tt|t|tL"})
    check_launch(DENSE, Launch(num_ranks=4, pipeline_parallel=4, first_stage_layers=3), {})
    experts = Architecture(**vars(DENSE) | {"experts": Experts(4, 2, 6, True)})
    tensor = Launch(num_ranks=4, tensor_parallel=4)
    with pytest.raises(UserError, match="feed-forward width .6."):
        check_launch(experts, tensor, {})
    check_launch(experts, tensor, {"expert-tensor-parallel-size": 1})
