"""Frequencies and angles against transformers, up to position 131,072; and Megatron's own."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megatron_dasd.errors import UserError
from megatron_dasd.models.rotary import Rotary, read_rotary

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 32768,
}
LENGTH = 131072
SCALED: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "rope_theta": 10000.5, "factor": 3.0},
    "llama 3": LLAMA3 | {"factor": 32.0},
    "llama 3 from 4,096": LLAMA3 | {"original_max_position_embeddings": 4096, "factor": 20.0},
    "llama 3 by other bounds": LLAMA3 | {"low_freq_factor": 0.5, "high_freq_factor": 7.5},
    "yarn, as Qwen has it": YARN,
    "yarn of a given length": YARN | {"original_max_position_embeddings": None},
    "yarn by all its fields": YARN
    | {"rope_theta": 5e6 + 0.25, "beta_fast": 24, "beta_slow": 2.5, "truncate": False}
    | {"attention_factor": 0.875},
    "yarn by both scales": YARN | {"mscale": 0.707, "mscale_all_dim": 0.5},
    "yarn of a part": YARN | {"partial_rotary_factor": 0.25},
}


def config_of(rope: dict[str, Any]) -> LlamaConfig:
    given = {name: x for name, x in rope.items() if x is not None}
    return LlamaConfig(head_dim=128, max_position_embeddings=LENGTH, rope_parameters=given)


@pytest.mark.parametrize("name", SCALED)
def test_angles_are_those_of_transformers(name: str) -> None:
    rope = SCALED[name]
    theirs, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config_of(rope), torch.device("cpu"))
    config = {"max_position_embeddings": LENGTH, "rope_parameters": rope}
    rotary = read_rotary(
        config, "config.json: field ", share=0.5 if "partial" in str(rope) else 1.0
    )
    ours = rotary.frequencies(128)
    assert ours.dtype == torch.float32
    assert rotary.attention_factor == pytest.approx(factor, rel=1e-15)
    position = torch.tensor([1.0, 4095.0, LENGTH - 1.0])
    # equal to the last bit: angles of tens of thousands of radians would show the least difference
    assert torch.equal(torch.outer(position, ours), torch.outer(position, theirs))


def test_megatrons_flags_say_what_is_exact() -> None:
    assert Rotary(5e5).is_megatrons
    assert Rotary(5e5, share=0.25).is_megatrons
    assert not Rotary(5e5 + 0.5).is_megatrons
    config = {"max_position_embeddings": LENGTH, "rope_parameters": LLAMA3}
    assert read_rotary(config, "").is_megatrons
    config["rope_parameters"] = LLAMA3 | {"high_freq_factor": 5.0}
    assert not read_rotary(config, "").is_megatrons


def test_what_a_program_is_told_is_the_same_embedding() -> None:
    config = {"max_position_embeddings": LENGTH, "rope_parameters": YARN}
    rotary = read_rotary(config, "")
    assert Rotary.from_json(rotary.to_json()) == rotary


def test_a_family_that_rotates_the_whole_head_takes_no_part_of_it() -> None:
    config = {"max_position_embeddings": 64, "partial_rotary_factor": 0.5}
    with pytest.raises(UserError, match=r"partial_rotary_factor: 0.5 is not supported \(only 1"):
        read_rotary(config, "")
    assert read_rotary(config, "", share=0.25).share == 0.5
    assert read_rotary({"max_position_embeddings": 64}, "", share=0.25).share == 0.25
    with pytest.raises(UserError, match=r"1.5 is not supported \(above 0"):
        read_rotary({"partial_rotary_factor": 1.5}, "", share=0.25)
