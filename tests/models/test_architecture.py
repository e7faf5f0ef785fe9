import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import read_architecture

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
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
}


def write(folder: Path, **changes: Any) -> Path:
    config = {k: v for k, v in (CONFIG | changes).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_flags_of_a_llama(tmp_path: Path) -> None:
    flags = read_architecture(write(tmp_path)).flags(tensor_parallel=2)
    assert flags["num-layers"] == 3
    assert flags["num-query-groups"] == 2
    assert flags["kv-channels"] == 8  # 48 / 6, as the config names none
    assert flags["rotary-base"] == 100000
    assert flags["vocab-size"] == 300
    assert flags["make-vocab-size-divisible-by"] == 64  # x 2 ranks = 128
    assert flags["untie-embeddings-and-output-weights"] is False
    assert flags["qk-layernorm"] is False


def test_padded_vocabulary_is_the_same_under_every_layout(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path))
    assert architecture.padded_vocab_size == 384
    for tensor_parallel in (1, 2):
        multiple = architecture.flags(tensor_parallel)["make-vocab-size-divisible-by"]
        assert multiple * tensor_parallel == 128


def test_qwen3_has_its_own_head_size_and_query_key_norms(tmp_path: Path) -> None:
    folder = write(tmp_path, architectures=["Qwen3ForCausalLM"], head_dim=128)
    flags = read_architecture(folder).flags(1)
    assert flags["kv-channels"] == 128
    assert flags["qk-layernorm"] is True


def test_rope_theta_of_older_configs(tmp_path: Path) -> None:
    folder = write(tmp_path, rope_parameters=None, rope_theta=5000.0)
    assert read_architecture(folder).rotary_base == 5000.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "field architectures: GPT2LMHeadModel is not one"),
        ({"hidden_size": None}, "field hidden_size: missing"),
        ({"mlp_bias": True}, "field mlp_bias: True is not supported"),
        (
            {"rope_parameters": {"rope_type": "llama3"}},
            "field rope_type: 'llama3' is not supported",
        ),
    ],
)
def test_refusals_name_file_and_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        read_architecture(write(tmp_path, **changes))
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: {message}")


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_architecture(tmp_path)


def test_heads_that_do_not_split(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path, num_attention_heads=9, num_key_value_heads=3))
    with pytest.raises(UserError, match=r"tensor_parallel 2 does not divide .* heads \(9\)"):
        architecture.flags(2)
