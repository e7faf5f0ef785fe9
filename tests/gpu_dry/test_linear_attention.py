"""A step of training of a model with gated delta nets, as a rank of H100s, by shapes."""

from pathlib import Path

import pytest

from tests.gpu_dry.case import Result
from tests.gpu_dry.conftest import Play
from tests.gpu_dry.inputs import SEQ_LENGTH
from tests.gpu_dry.test_training import DENSE, check_step, collective


def kernels(result: Result) -> dict[str, int]:
    """Calls of ``fla``'s functions."""
    return {name: count for name, count in result.calls.items() if name.startswith("fla ")}


@pytest.mark.slow
def test_kernels_get_the_whole_row_of_a_share_of_the_heads(play: Play, dry_place: Path) -> None:
    result = play(DENSE, "stage1", model=str(dry_place / "tiny_delta_nets"))
    check_step(result)
    assert result.modules["DeltaNet"] == 1
    assert result.attention  # of the other layer
    # TP2 CP4: of 8 key heads of 16 and 16 value heads of 32 channels each rank has 1 and 2
    once = {
        f"fla causal_conv1d bfloat16 [1, {SEQ_LENGTH}, {2 * 16 + 2 * 32}]",
        f"fla l2norm bfloat16 [1, {SEQ_LENGTH}, 2, 16]",
        f"fla chunk_gated_delta_rule bfloat16 float32 [1, {SEQ_LENGTH}, 2, 32]",
    }
    assert kernels(result).keys() == once
    # shares of the row for shares of the heads: 2 x 4 keys' and 2 x 8 values' channels, beta, alpha
    projected = 2 * 4 * 16 + 2 * 8 * 32 + 2 * 8
    assert collective(result, "all_to_all_single", 4)[SEQ_LENGTH // 4 * projected * 2]
    assert collective(result, "all_to_all_single", 4)[SEQ_LENGTH // 4 * 8 * 32 * 2]


@pytest.mark.exhaustive
def test_without_transformer_engine(play: Play, dry_place: Path) -> None:
    model = str(dry_place / "tiny_delta_nets")
    result = play(DENSE, "stage1", kind="bare", model=model)
    assert result.without_gradient == []
    assert result.modules["DeltaNet"] == 1
    assert len(kernels(result)) == 3
