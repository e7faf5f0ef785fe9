"""What the doctor says of attention kernels; tests/gpu_dry asks Transformer Engine itself."""

import pytest

from megatron_dasd.models.attention_backend import AttentionShape, name_of
from megatron_dasd.planning.attention import _finding, findings, of_recipes

DENSE = AttentionShape(
    num_heads=16, num_groups=4, head_dim=128, num_tokens=16_384, context_parallel=4
)


def test_recipes_with_rows_alike_share_a_line() -> None:
    recipes = of_recipes()
    assert recipes[DENSE] == [f"qwen3_4b/h100_{gpus}" for gpus in (256, 64, 8)]
    assert sorted(shape.context_parallel for shape in recipes) == [1, 4, 8, 8]
    assert sum(len(names) for names in recipes.values()) == 7


def test_without_a_gpu_the_program_s_own_attention_is_named() -> None:
    (finding,) = findings(has_gpu=False)
    assert (finding.state, finding.found) == ("on", "torch's SDPA, a document at a time")


def test_a_machine_whose_kernels_take_no_packed_rows_is_broken() -> None:
    finding = _finding("", DENSE, ["qwen3_4b/h100_8"])
    assert finding.state == "broken"
    assert "no kernel takes packed rows of qwen3_4b/h100_8 (16 heads of 128" in finding.meaning
    assert _finding("FlashAttention 3", DENSE, ["mine"]).state == "on"


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ((True, "3.0.0", False, None, False, []), "FlashAttention 3.0.0"),
        ((False, None, True, 1, False, []), "cuDNN's fused attention"),
        ((False, None, False, None, True, []), "unfused attention"),
        ((False, None, False, None, False, []), ""),
    ],
)
def test_names_of_kernels(answer: tuple[object, ...], name: str) -> None:
    assert name_of(answer) == name
