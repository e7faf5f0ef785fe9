"""Every other program that meets a GPU, as rank 0 of its example."""

from pathlib import Path

import pytest

from tests.gpu_dry.conftest import Play

DENSE = "qwen3_4b/h100_64.yaml"
pytestmark = pytest.mark.slow


@pytest.mark.exhaustive
def test_import_and_export(play: Play) -> None:
    """They hold the whole model's shape on one rank, wherever they run."""
    for stage in ("student_checkpoint", "stage2_hf"):
        result = play(DENSE, stage)
        assert result.args["transformer_impl"] == "local"
        assert result.attention == []


def test_verification_is_in_float32(play: Play) -> None:
    result = play(DENSE, "verify")
    assert result.args["transformer_impl"] == "local"
    assert result.args["params_dtype"] == "torch.float32"
    assert result.host_reads["megatron_dasd/checkpoint/verify_program.py:_megatron_logits"] == 1


@pytest.mark.parametrize(
    ("dtype", "layers"), [("float32", "local"), ("bfloat16", "transformer_engine")]
)
def test_scoring(play: Play, dtype: str, layers: str) -> None:
    result = play(DENSE, "score", settings=(f"dtype={dtype}",))
    assert result.args["transformer_impl"] == layers
    assert result.args["tensor_model_parallel_size"] == 2
    # one row holds all three responses, and its log-probs are read once
    assert result.host_reads["megatron_dasd/student/scoring_program.py:_token_losses"] == 1
    assert len(result.attention) == (2 if layers == "transformer_engine" else 0)


def test_the_teachers_likeliest_tokens(play: Play, dry_place: Path) -> None:
    """Two documents of 600 and 300 tokens: 256 positions' logits at a time, ids and log-probs."""
    result = play(str(dry_place / "topk.yaml"), "top")
    assert result.host_reads == {
        "site-packages/transformers/masking_utils.py:find_packed_sequence_indices": 2,
        "megatron_dasd/teacher/top_model.py:top_of_document": (3 + 2) * 2,
    }
