"""What kept the programs from starting on a GPU: each test fails where its fault is back."""

from pathlib import Path

import pytest

from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.device import gpus, launch
from tests.gpu_dry import forked
from tests.gpu_dry.conftest import Play

EXPERTS = "qwen3_30b_a3b/h100_64.yaml"
DENSE = ("qwen3_4b/h100_64.yaml", "stage1")


def imported_keys(checkpoint: Path) -> set[str]:
    """What a checkpoint of the real import holds, as ``watching.keys`` writes it."""
    entries = open_checkpoint(checkpoint).metadata.state_dict_metadata
    return {
        f"{key} {list(entry.size)}" if hasattr(entry, "size") else key
        for key, entry in entries.items()
    }


def test_training_starts_without_make_and_without_apex(play: Play) -> None:
    """Faults 1 and 3: rank 0 runs ``make``, the output layer asks for apex."""
    result = play(*DENSE)
    assert result.args["transformer_impl"] == "transformer_engine"
    assert result.args["gradient_accumulation_fusion"] is True
    assert result.modules["TELayerNormColumnParallelLinear"] == 4
    # Transformer Engine's products add to main_grad: two layers of four weights each
    assert ["bfloat16", "bfloat16", "float32", 8] in result.products
    assert result.without_gradient == []


def test_an_imported_checkpoint_has_what_the_engines_modules_ask_for(
    play: Play, dry_place: Path
) -> None:
    """Fault 2: its norms have an extra state."""
    result = play(*DENSE, model=str(dry_place / "tiny"))
    held = imported_keys(dry_place / "checkpoint")
    assert "decoder.final_layernorm._extra_state/shard_0_1" in result.loaded
    assert "decoder.layers.self_attention.q_layernorm._extra_state/shard_1_2" in result.loaded
    assert set(result.loaded) <= held
    # and nothing of the model is left over
    assert held - set(result.loaded) == {
        "common_state/shard_0_1",
        "rerun_state_machine_state/shard_0_1",
    }


@pytest.mark.slow
def test_an_imported_checkpoint_of_experts(play: Play, dry_place: Path) -> None:
    """Fault 2: of grouped experts, whose keys a rank has for its own share of them."""
    result = play(EXPERTS, "stage1", model=str(dry_place / "tiny_experts"))
    assert result.modules["TEGroupedMLP"] == 2
    held = imported_keys(dry_place / "checkpoint_experts")
    assert "decoder.layers.pre_mlp_layernorm._extra_state/shard_0_2" in result.loaded
    assert "decoder.layers.mlp.experts.experts.linear_fc1.weight [2, 8, 96, 64]" in result.loaded
    assert set(result.loaded) <= held


def test_float32_goes_through_the_local_layers(play: Play) -> None:
    """Fault 4: Transformer Engine has no attention for padded documents in float32."""
    result = play(*DENSE, settings=("precision=fp32",))
    assert result.args["transformer_impl"] == "local"
    assert result.args["distributed_backend"] == "nccl"
    assert result.modules["PackedAttention"] == 2
    assert result.attention == []
    assert result.without_gradient == []


def test_ranks_can_use_the_gpu_outside_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 5: what is forked from a process that asked for CUDA cannot use it."""
    for gpu, said in ((True, "CUDA can start"), (False, "CUDA is dead")):
        monkeypatch.setattr(gpus, "in_sight", lambda gpu=gpu: gpu)
        launch.launch("tests.gpu_dry.forked", forked.Answer(out=tmp_path / "said"), 1, tmp_path)
        assert (tmp_path / "said").read_text() == said


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(gpus.ctypes, "CDLL", missing)
    assert not gpus.in_sight()


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 8, True), ("0,1", 8, True), ("", 8, False), ("-1", 8, False), (None, 0, False)],
)
def test_gpus_in_sight(
    visible: str | None, count: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        def __init__(self, name: str) -> None: ...

        def nvmlInit_v2(self) -> int:
            return 0

        def nvmlShutdown(self) -> int:
            return 0

        def nvmlDeviceGetCount_v2(self, found: object) -> int:
            found._obj.value = count
            return 0

    monkeypatch.setattr(gpus.ctypes, "CDLL", Library)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.in_sight() is expected


@pytest.mark.parametrize("apex", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_megatrons_own_loss(play: Play, apex: bool) -> None:
    """Fault 7: ``chunked_loss: false`` needed apex."""
    result = play(*DENSE, settings=("chunked_loss=false",), apex=apex)
    assert result.calls.get("apex weight gradient", 0) == int(apex)
    assert result.without_gradient == []
