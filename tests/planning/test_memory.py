"""Planned memory against the live tensors of training steps, by part; and counts by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.config.base import Launch
from megatron_dasd.device.launch import launch
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import layout_flags, to_argv
from megatron_dasd.planning.memory import (
    Recipe,
    layer_activations,
    memory,
    parameters,
    rows_in_flight,
)
from tests.sampled import left_out

SEQ_LENGTH, ALIGN = 512, 8
LENGTHS = [192, 192, 128]
ROPE = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 512}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 1024,
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
    **ROPE,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 640,
    "hidden_size": 128,
    "intermediate_size": 224,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    **ROPE,
}
MOE = {
    **QWEN3,
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 80,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "tie_word_embeddings": False,
}
DELTA_NET = {
    **QWEN3,
    "architectures": ["Qwen3_5ForCausalLM"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 24,
    "linear_value_head_dim": 40,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
}
DELTA_NET_MOE = {
    **DELTA_NET,
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 80,
    "shared_expert_intermediate_size": 96,
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dense": (QWEN3, {}, {"bf16": False}),
    "bf16": (LLAMA, {}, {}),
    "tp2": (QWEN3, {"num_ranks": 2, "tensor_parallel": 2}, {}),
    "pp2": (LLAMA, {"num_ranks": 2, "pipeline_parallel": 2}, {"num_micro_batches": 4}),
    "vpp": (
        QWEN3,
        {"num_ranks": 2, "pipeline_parallel": 2, "virtual_pipeline": 2},
        {"num_micro_batches": 4},
    ),
    "cp2": (QWEN3, {"num_ranks": 2, "context_parallel": 2}, {}),
    "dp2 sharded": (LLAMA, {"num_ranks": 2, "distributed_optimizer": True}, {}),
    "recomputed": (LLAMA, {}, {"recompute": "full"}),
    "experts": (MOE, {}, {}),
    "tp2 ep2": (MOE, {"num_ranks": 4, "tensor_parallel": 2, "expert_parallel": 2}, {}),
    "delta nets": (DELTA_NET, {}, {"bf16": False}),
    "delta nets bf16 pp2": (DELTA_NET, {"num_ranks": 2, "pipeline_parallel": 2}, {}),
    "delta nets tp2 experts": (DELTA_NET_MOE, {"num_ranks": 2, "tensor_parallel": 2}, {}),
    "ep2": (MOE, {"num_ranks": 2, "expert_parallel": 2, "distributed_optimizer": True}, {}),
}
RECOMPUTE = {
    "recompute-granularity": "full",
    "recompute-method": "uniform",
    "recompute-num-layers": 1,
}


def recipe_of(case: str, folder: Path) -> Recipe:
    config, layout, changes = CASES[case]
    (folder / "config.json").write_text(json.dumps(config))
    architecture = read_architecture(folder)
    return Recipe(architecture, Launch(**layout), SEQ_LENGTH, layers="local", **changes)


def measured(recipe: Recipe, folder: Path) -> list[dict[str, int]]:
    """What each rank counts."""
    layout = recipe.launch
    flags = {
        "dasd-hf-model": str(folder),
        **layout_flags(layout, SEQ_LENGTH, "bfloat16" if recipe.bf16 else "float32"),
        "global-batch-size": recipe.num_micro_batches * recipe.data_parallel,
        "train-iters": 2,
        "lr": 1e-3,
        "calculate-per-token-loss": True,
        "dataloader-type": "external",
        "eval-iters": 0,
        "eval-interval": 9,
        "use-distributed-optimizer": layout.distributed_optimizer,
        **(RECOMPUTE if recipe.recompute == "full" else {}),
    }
    payload = {
        "argv": to_argv(flags),
        "lengths": LENGTHS,
        "align": ALIGN,
        "num_micro_batches": recipe.num_micro_batches,
        "out": str(folder),
    }
    launch("tests.planning.programs", payload, layout.num_ranks, folder / "logs")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(layout.num_ranks)]


LEFT_OUT = ("delta nets bf16 pp2", "delta nets tp2 experts")


@pytest.mark.parametrize("case", [left_out(x) if x in LEFT_OUT else x for x in CASES])
def test_planned_memory_is_that_of_live_tensors(case: str, tmp_path: Path) -> None:
    recipe = recipe_of(case, tmp_path)
    for found in measured(recipe, tmp_path):
        planned = memory(recipe, found["stage"])
        if recipe.recompute == "full":  # a layer is there again for its backward pass
            inputs = (
                recipe.num_layers(found["stage"]) * SEQ_LENGTH * recipe.architecture.hidden_size
            )
            again = inputs * recipe.element_bytes + layer_activations(recipe)
            planned = replace(planned, activations=again)
        for part in ("weights", "gradients", "optimizer", "activations"):
            assert getattr(planned, part) == pytest.approx(found[part], rel=0.1), (part, found)


def test_every_parameter_is_counted_once(tmp_path: Path) -> None:
    """Over the ranks of a layout they add up to the whole model's, embedding and norms aside."""
    whole = recipe_of("experts", tmp_path)
    config = MOE
    h, layers = config["hidden_size"], config["num_hidden_layers"]
    q, k = 6 * 32, 2 * 32
    layer = h * (q + 2 * k) + q * h + 2 * h + 2 * 32 + h * 8
    dense, expert = parameters(whole, 0)
    assert dense == layers * layer + 2 * config["vocab_size"] * h + h
    assert expert == layers * 8 * 3 * h * 80
    shared = Recipe(whole.architecture, Launch(num_ranks=4, expert_parallel=4), SEQ_LENGTH)
    assert parameters(shared, 0) == (dense, expert // 4)


def test_a_shared_embedding_lies_on_both_ends_of_a_pipeline(tmp_path: Path) -> None:
    one = recipe_of("dense", tmp_path)
    two = recipe_of("vpp", tmp_path)
    embedding = QWEN3["vocab_size"] * QWEN3["hidden_size"]
    both = parameters(two, 0)[0] + parameters(two, 1)[0]
    assert both == parameters(one, 0)[0] + embedding


def test_the_stages_of_an_uneven_pipeline_have_their_own_layers(tmp_path: Path) -> None:
    one = recipe_of("bf16", tmp_path)
    launch = Launch(num_ranks=3, pipeline_parallel=3, first_stage_layers=2)
    uneven = replace(one, launch=launch)
    assert [uneven.num_layers(stage) for stage in range(3)] == [2, 1, 1]
    assert sum(parameters(uneven, stage)[0] for stage in range(3)) == parameters(one, 0)[0]
    first, middle = (parameters(uneven, stage)[0] for stage in range(2))
    assert first - LLAMA["vocab_size"] * LLAMA["hidden_size"] == 2 * middle


def test_rows_in_flight(tmp_path: Path) -> None:
    architecture = recipe_of("dense", tmp_path).architecture
    plain = Recipe(architecture, Launch(num_ranks=4, pipeline_parallel=4), 64, num_micro_batches=8)
    assert [rows_in_flight(plain, stage) for stage in range(4)] == [4, 3, 2, 1]
    few = replace(plain, num_micro_batches=2)
    assert [rows_in_flight(few, stage) for stage in range(4)] == [2, 2, 2, 1]
    # 2 x 3 + 4 + 1 = 11 chunks of half a stage
    interleaved = Launch(num_ranks=4, pipeline_parallel=4, virtual_pipeline=2)
    assert rows_in_flight(replace(plain, launch=interleaved), 0) == 5.5


def test_the_distributed_optimizer_divides_what_data_parallel_ranks_have_alike(
    tmp_path: Path,
) -> None:
    recipe = recipe_of("ep2", tmp_path)
    dense, expert = parameters(recipe, 0)
    assert memory(recipe, 0).optimizer == 12 * (dense / 2 + expert)  # no other rank has them
    whole = replace(recipe, launch=Launch(num_ranks=2, expert_parallel=2))
    assert memory(whole, 0).optimizer == 12 * (dense + expert)
