"""One step of training as a rank of H100s: forward, backward, optimizer, by shapes.

Two layers (four in pipelines) of each example's own model, rows of its own length.
"""

from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_dasd.planning.attention import of_recipes
from tests.gpu_dry import host_reads
from tests.gpu_dry.case import Result
from tests.gpu_dry.conftest import Play
from tests.gpu_dry.inputs import LENGTHS, SEQ_LENGTH

DENSE, EXPERTS = "qwen3_4b/h100_64.yaml", "qwen3_30b_a3b/h100_64.yaml"
EXAMPLES = sorted(
    f"{path.parent.name}/{path.name}"
    for path in (Path(__file__).parents[2] / "examples").glob("qwen3_*/*.yaml")
)
OTHER = {"batch_size", "fp8_meta", "max_seqlen_kv", "max_seqlen_q"}
FP8 = {"fp8-blockwise": "Float8Blockwise", "fp8-tensorwise": "Float8", "fp8-delayed": "Float8"}
# The last slot reaches to the end of the row, 13,312 positions; the next power of two.
LONGEST = 16_384


def check_step(result: Result, weight_products: str = "bfloat16") -> None:
    """What holds in every layout."""
    assert result.without_gradient == []
    named = {*host_reads.NAMED, "cuda device", "cuda event"}
    assert result.host_reads.keys() <= named
    for call in result.attention:
        assert call["layout"] == "THD_THD_THD"
        assert call["mask"] in ("PADDING_CAUSAL_MASK", "PADDING_MASK")
        assert call["dtype"] == "bfloat16"
        # documents and slots, of queries and of keys: all four are given
        assert call["num_borders"] == [len(LENGTHS) + 1] * 4
    # FP8 or not, gradients of weights are added up in float32
    kinds = {(a, b) for a, b, result_kind, _ in result.products if result_kind == "float32"}
    assert (weight_products, weight_products) in kinds


def collective(result: Result, name: str, ranks: int) -> dict[int, int]:
    """How many by their bytes."""
    return {
        n: count for kind, size, n, count in result.collectives if (kind, size) == (name, ranks)
    }


def test_tensor_and_context_parallel(play: Play) -> None:
    result = play(DENSE, "stage1")
    check_step(result)
    # TP2 CP4: 16 of 32 heads over a quarter of the row; each ring has 4 exchanges
    assert result.attention[0]["query"] == [SEQ_LENGTH // 4, 16, 128]
    assert result.attention[0]["key"] == [SEQ_LENGTH // 4, 4, 128]
    assert result.attention[0]["max_q"] == LONGEST // 4
    assert len(result.attention) == 2 * 2 * 4
    # sequence parallelism: a layer gathers its half of the quarter, 2560 channels of 2 bytes
    assert collective(result, "all_gather_into_tensor", 2)[SEQ_LENGTH // 4 * 2560 * 2]
    # keys and values of a quarter, sent around the ring of 4
    assert collective(result, "isend", 4)


@pytest.mark.parametrize(
    ("example", "precision"),
    [
        (DENSE, "fp8-blockwise"),
        pytest.param(DENSE, "fp8-tensorwise", marks=pytest.mark.exhaustive),
        pytest.param(DENSE, "fp8-delayed", marks=pytest.mark.exhaustive),
        pytest.param(EXPERTS, "fp8-blockwise", marks=pytest.mark.slow),
        pytest.param(EXPERTS, "fp8-tensorwise", marks=pytest.mark.exhaustive),
        pytest.param(EXPERTS, "fp8-delayed", marks=pytest.mark.exhaustive),
    ],
)
def test_fp8(play: Play, example: str, precision: str) -> None:
    result = play(example, "stage1", settings=(f"precision={precision}",))
    kind = FP8[precision]
    check_step(result, kind)
    # every product of a layer: the router's alone stay as they are
    for a, b, out, count in result.products:
        if (a, b) != (kind, kind):
            assert out == "float32"
            assert count <= 4


@pytest.mark.exhaustive
def test_experts_over_ranks(play: Play) -> None:
    """TP2 CP8 EP8: 16 of 128 experts a rank, tokens exchanged among 8."""
    result = play(EXPERTS, "stage1")
    check_step(result)
    assert result.modules["TEGroupedMLP"] == 2
    assert result.calls["te_general_grouped_gemm"] == 12
    # 4096 tokens a rank, 8 experts each, 2048 channels of 2 bytes
    assert collective(result, "all_to_all_single", 8)[SEQ_LENGTH // 16 * 8 * 2048 * 2]


def test_recomputation_and_moments_in_bfloat16(play: Play) -> None:
    """EP8 CP8 on one node: what is recomputed passes the attention twice forwards."""
    result = play("qwen3_30b_a3b/h100_8.yaml", "stage1")
    check_step(result)
    names = [call["name"] for call in result.attention]
    assert names.count("forward") == 2 * names.count("backward")


LAYOUTS = {
    "CP8": "num_ranks: 64, context_parallel: 8",
    "PP4": "num_ranks: 64, tensor_parallel: 2, pipeline_parallel: 4",
    "interleaved PP2": (
        "num_ranks: 64, tensor_parallel: 2, pipeline_parallel: 2, virtual_pipeline: 2"
    ),
}


def play_layout(play: Play, layout: str, rank: int, **fields: object) -> Result:
    launch = f"launch={{{LAYOUTS[layout]}, distributed_optimizer: true}}"
    return play(
        DENSE, "stage1", settings=(launch,), rank=rank, num_layers=4, micro_batches=4, **fields
    )


@pytest.mark.parametrize(
    ("layout", "rank"),
    [
        ("PP4", 63),
        pytest.param("interleaved PP2", 63, marks=pytest.mark.exhaustive),
        pytest.param("CP8", 1, marks=pytest.mark.exhaustive),
        pytest.param("PP4", 0, marks=pytest.mark.exhaustive),
        pytest.param("PP4", 20, marks=pytest.mark.exhaustive),
    ],
)
def test_layouts(play: Play, layout: str, rank: int) -> None:
    result = play_layout(play, layout, rank)
    check_step(result)
    # the losses of all four rows of the step are read at once, where there are any
    place = "megatron_dasd/training/loss_check.py:add"
    assert result.host_reads.get(place, 0) == (layout == "CP8" or rank == 63)


def check_attention(result: Result, example: str) -> None:
    """Padding between documents leaves cuDNN's fused attention and FlashAttention 3, no other."""
    expected = next(
        shape for shape, names in of_recipes().items() if example.removesuffix(".yaml") in names
    )
    assert result.backends
    for asked in result.backends:
        assert {name: asked[name] for name in asdict(expected)} == asdict(expected)
        assert asked["pad_between_seqs"]
        # the doctor asks the same, of the row's length in place of the longest slot's
        assert set(asked["other"]) <= OTHER
        assert asked["chosen"] == "cuDNN's fused attention"
        # FlashAttention, cuDNN's, unfused
        assert asked["left with FlashAttention 2"] == [False, True, False]
        assert asked["left with FlashAttention 3"] == [True, True, False]
    assert result.calls["fused_attn forward"] == len(result.attention) / 2


def test_attention_is_cudnns(play: Play) -> None:
    """Transformer Engine's own choice, asked as an H100 with cuDNN 9.24."""
    check_attention(play(DENSE, "stage1"), DENSE)


@pytest.mark.exhaustive
@pytest.mark.parametrize("example", [e for e in EXAMPLES if "h100_" in e])
def test_attention_of_every_example(play: Play, example: str) -> None:
    check_attention(play(example, "stage1"), example)


@pytest.mark.parametrize(
    ("example", "settings"),
    [
        pytest.param(DENSE, (), id="bf16", marks=pytest.mark.slow),
        pytest.param(DENSE, ("precision=fp32",), id="fp32", marks=pytest.mark.exhaustive),
        pytest.param(EXPERTS, (), id="experts", marks=pytest.mark.exhaustive),
    ],
)
def test_without_transformer_engine(play: Play, example: str, settings: tuple[str, ...]) -> None:
    result = play(example, "stage1", kind="bare", settings=settings)
    assert result.args["transformer_impl"] == "local"
    assert result.modules["PackedAttention"] == 2
    assert result.without_gradient == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_fp8_without_transformer_engine_is_refused(play: Play) -> None:
    result = play(DENSE, "stage1", kind="bare", settings=("precision=fp8-blockwise",), fails=True)
    assert "Transformer Engine is not installed" in result.error


@pytest.mark.slow
def test_an_interim_save_gathers_nothing(play: Play) -> None:
    """The optimizer's state as it lies on the ranks, then the last save as a whole."""
    result = play(DENSE, "stage1", save=True, interim=True)
    interim = {key for key in result.saved if key.startswith("optimizer.distributed.")}
    for state in ("exp_avg", "exp_avg_sq", "param"):
        assert any(f"bucket_idx_0.{state} " in key for key in interim)
        assert any(key.startswith(f"optimizer.state.{state}.") for key in result.saved)
    assert result.host_reads[
        "dist_checkpointing/strategies/async_utils.py:is_current_async_call_done"
    ]


def test_exchanges_run_beside_the_passes(play: Play) -> None:
    args = play(DENSE, "stage1").args
    assert args["overlap_grad_reduce"]
    assert args["overlap_param_gather"]
    assert args["manual_gc"]
    assert args["async_save"]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_experts_by_fused_kernels(play: Play) -> None:
    """One layer each: tokens are routed and put in order by Transformer Engine's kernels."""
    settings = ("moe_aux_loss_coeff=0",)
    result = play(EXPERTS, "stage1", num_layers=1, settings=settings)
    check_step(result)
    assert result.args["moe_permute_fusion"]
    assert result.args["moe_router_fusion"]
    assert result.calls["fused_topk_with_score_function_fwd"] == 1
    # the balancing loss with padding left out is not for the fused kernel
    balanced = play(EXPERTS, "stage1", num_layers=1)
    check_step(balanced)
    assert balanced.args["moe_permute_fusion"]
    assert not balanced.args["moe_router_fusion"]


@pytest.mark.slow
def test_a_save_by_its_keys(play: Play) -> None:
    result = play(DENSE, "stage1", save=True)
    weights = {key for key in result.saved if not key.startswith("optimizer")}
    assert {key for key in weights if key in result.loaded} == set(result.loaded)
    tensors = {key for key in weights if "_extra_state" not in key and " " in key}
    for state in ("exp_avg", "exp_avg_sq", "param"):
        start = f"optimizer.state.{state}."
        kept = {key.removeprefix(start) for key in result.saved if key.startswith(start)}
        assert kept == tensors


@pytest.mark.exhaustive
@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example(play: Play, example: str) -> None:
    check_step(play(example, "stage1"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("precision", ["bf16", *FP8])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_rank_and_precision(
    play: Play, example: str, place: str, precision: str
) -> None:
    first = play(example, "stage1", settings=(f"precision={precision}",))
    size = first.args["world_size"]
    assert isinstance(size, int)
    rank = {"first": 0, "middle": size // 2, "last": size - 1}[place]
    result = play(example, "stage1", settings=(f"precision={precision}",), rank=rank)
    check_step(result, FP8.get(precision, "bfloat16"))
