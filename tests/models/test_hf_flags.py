import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.device import cpu_adapter
from megatron_dasd.errors import UserError
from megatron_dasd.models.hf_flags import CommandLine

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    if cpu_adapter.needed():
        cpu_adapter.install()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def flags_of(model: Path, *typed: str) -> dict[str, Any]:
    line = CommandLine(["--dasd-hf-model", str(model), *typed])
    architecture = line.architecture()
    assert architecture is not None
    return line.architecture_flags(architecture)


def test_a_user_types_no_flag_of_the_architecture(model: Path) -> None:
    flags = flags_of(model, "--lr", "1e-4", "--tensor-model-parallel-size", "2")
    assert flags["num-layers"] == 3
    assert flags["make-vocab-size-divisible-by"] == 64  # x 2 ranks = 128


def test_what_agrees_may_be_typed(model: Path) -> None:
    agreeing = [
        "--num-layers",
        "3",
        "--swiglu",
        "--norm-epsilon",
        "0.00001",
        "--attention-dropout",
        "0",
    ]
    assert flags_of(model, *agreeing)["num-layers"] == 3


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--pipeline-model-parallel-size", "2"], "2 does not divide the model's layers .3."),
        (["--tensor-model-parallel-size", "4"], "4 does not divide the model's attention heads"),
        (
            ["--pipeline-model-parallel-size=3", "--num-virtual-stages-per-pipeline-rank=2"],
            "6 does not divide the model's layers .3.",
        ),
    ],
)
def test_a_typed_layout_that_cannot_hold_the_model(
    model: Path, typed: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        flags_of(model, *typed)
    placed = ["--pipeline-model-parallel-size=2", "--decoder-first-pipeline-num-layers=1"]
    assert flags_of(model, *placed)["num-layers"] == 3


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--num-layers", "4"], "--num-layers 4 contradicts the model's 3"),
        (["--norm-epsilon", "1e-6"], "--norm-epsilon 1e-06 contradicts the model's 1e-05"),
        (["--attention-dropout", "0.1"], "--attention-dropout 0.1 contradicts the model's 0.0"),
        (["--qk-layernorm"], "--qk-layernorm on contradicts the model's off"),
        (["--num-experts", "8"], "--num-experts 8 contradicts the model's none"),
        (["--rotary-percent", "0.5"], "--rotary-percent 0.5 contradicts the model's 1.0"),
        (["--window-size", "127,0"], "--window-size (127, 0) contradicts the model's none"),
        (
            ["--untie-embeddings-and-output-weights"],
            "--untie-embeddings-and-output-weights on contradicts the model's off",
        ),
        (
            ["--position-embedding-type", "yarn"],
            "--position-embedding-type yarn contradicts the model's rope",
        ),
        (["--tensor-model-parallel-size", "4"], "tensor_parallel 4 does not divide the model's"),
    ],
)
def test_what_contradicts_the_model_is_refused(model: Path, typed: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        flags_of(model, *typed)
    assert str(error.value).startswith(told)
    if "contradicts" in told:
        assert str(error.value).endswith(f"follows from {model}/config.json")


def test_without_a_model_the_flags_are_the_users(model: Path) -> None:
    line = CommandLine(["--num-layers", "4"])
    assert line.architecture() is None
    assert line.values == {"num_layers": 4}
