import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from megatron_dasd.checkpoint.compare_program import same_bits
from megatron_dasd.checkpoint.convert import (
    check_source,
    expected_tensors,
    from_hf,
    mapping_table,
    to_hf,
    total_bytes,
)
from megatron_dasd.checkpoint.hf_folder import HfWeights
from megatron_dasd.checkpoint.names import tensor_mappings
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.families import FAMILIES

TIED = Architecture(
    family=FAMILIES["LlamaForCausalLM"],
    num_layers=1,
    hidden_size=4,
    num_attention_heads=2,
    num_query_groups=1,
    head_dim=2,
    ffn_hidden_size=3,
    vocab_size=130,
    max_position_embeddings=64,
    norm_epsilon=1e-5,
    rotary_base=10000,
    tied_embeddings=True,
)
LAYER = "decoder.layers.0."
SHAPES = {
    "embedding.word_embeddings.weight": (256, 4),
    f"{LAYER}input_layernorm.weight": (4,),
    f"{LAYER}self_attention.linear_qkv.weight": (8, 4),
    f"{LAYER}self_attention.linear_proj.weight": (4, 4),
    f"{LAYER}pre_mlp_layernorm.weight": (4,),
    f"{LAYER}mlp.linear_fc1.weight": (6, 4),
    f"{LAYER}mlp.linear_fc2.weight": (4, 3),
    "decoder.final_layernorm.weight": (4,),
}
"""Megatron's parameters of the architecture above."""
PARAMETERS = {name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()}


def hf_tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    expected = expected_tensors(mapping_table(TIED, PARAMETERS), PARAMETERS, torch.float32)
    return {name: torch.randn(info.shape) for name, info in expected.items()}


def check(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")
    expected = expected_tensors(mapping_table(TIED, PARAMETERS), PARAMETERS, torch.float32)
    check_source(HfWeights(folder), expected, TIED)


def test_what_megatron_holds_in_float32_has_the_type_of_its_source(tmp_path: Path) -> None:
    (mapping,) = (m for m in tensor_mappings(TIED) if m.megatron.startswith("decoder.final"))
    table = {"norm": replace(mapping, wide=True)}
    parameters = {"norm": torch.empty(4, device="meta")}
    for dtype in (torch.bfloat16, torch.float32):
        source = torch.randn(4).to(dtype)
        save_file({"model.norm.weight": source}, tmp_path / "model.safetensors")
        weights = HfWeights(tmp_path)
        expected = expected_tensors(table, parameters, torch.bfloat16, weights)
        check_source(weights, expected, TIED)
        held = from_hf(weights, table["norm"])
        assert held.dtype == torch.float32
        (back,) = to_hf(held, table["norm"], expected).values()
        assert same_bits(back, source)
    alone = expected_tensors(table, parameters, torch.bfloat16)
    assert alone["model.norm.weight"].dtype == torch.float32


def test_the_expected_tensors_follow_from_the_rules() -> None:
    expected = expected_tensors(mapping_table(TIED, PARAMETERS), PARAMETERS, torch.bfloat16)
    assert {name: info.shape for name, info in expected.items()} == {
        "model.embed_tokens.weight": (130, 4),
        "model.layers.0.input_layernorm.weight": (4,),
        "model.layers.0.self_attn.q_proj.weight": (4, 4),
        "model.layers.0.self_attn.k_proj.weight": (2, 4),
        "model.layers.0.self_attn.v_proj.weight": (2, 4),
        "model.layers.0.self_attn.o_proj.weight": (4, 4),
        "model.layers.0.post_attention_layernorm.weight": (4,),
        "model.layers.0.mlp.gate_proj.weight": (3, 4),
        "model.layers.0.mlp.up_proj.weight": (3, 4),
        "model.layers.0.mlp.down_proj.weight": (4, 3),
        "model.norm.weight": (4,),
    }
    assert total_bytes(expected) == 2 * (130 * 4 + 4 + 16 + 8 + 8 + 16 + 4 + 12 + 12 + 12 + 4)


def test_every_parameter_needs_a_rule_and_every_rule_a_parameter() -> None:
    with pytest.raises(RuntimeError, match=r"no mapping for the Megatron tensors \['extra'\]"):
        mapping_table(TIED, PARAMETERS | {"extra": torch.empty(1)})
    fewer = {name: x for name, x in PARAMETERS.items() if "fc2" not in name}
    with pytest.raises(RuntimeError, match="a mapping for decoder.layers.0.mlp.linear_fc2.weight"):
        mapping_table(TIED, fewer)


def test_there_and_back_is_bit_for_bit(tmp_path: Path) -> None:
    tensors = hf_tensors()
    tensors["model.norm.weight"] = torch.tensor([float("nan"), -0.0, float("inf"), 1e-42])
    check(tmp_path, tensors)
    weights, back = HfWeights(tmp_path), {}
    for name, mapping in mapping_table(TIED, PARAMETERS).items():
        parameter = from_hf(weights, mapping)
        assert parameter.shape == SHAPES[name]
        back |= to_hf(parameter, mapping, weights.tensors)
    assert back.keys() == tensors.keys()
    assert all(same_bits(back[name], tensors[name]) for name in tensors)


def test_bits_are_compared_and_not_numbers() -> None:
    nan = torch.tensor([float("nan")])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2, 3), torch.zeros(3, 2))
    assert same_bits(torch.arange(6.0).reshape(2, 3).T, torch.tensor([[0.0, 3], [1, 4], [2, 5]]))


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({UP: None}, f"tensor {UP} is missing"),
        ({UP: torch.ones(4, 3)}, f"tensor {UP} has shape [4, 3], the config asks for [3, 4]"),
        (
            {UP: torch.ones(3, 4, dtype=torch.bfloat16)},
            f"tensor {UP} is bfloat16, config.json says float32; set its field dtype",
        ),
        ({"model.extra": torch.ones(1)}, "tensor model.extra is not part of the architecture"),
    ],
)
def test_a_tensor_that_is_not_as_it_should_be(
    change: dict[str, Tensor | None], told: str, tmp_path: Path
) -> None:
    tensors = hf_tensors() | change
    with pytest.raises(UserError, match=re.escape(told)):
        check(tmp_path, {name: t for name, t in tensors.items() if t is not None})


def test_what_older_folders_hold_besides(tmp_path: Path) -> None:
    tensors = hf_tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(1)
    check(tmp_path, tensors)


def test_a_head_that_is_not_the_embedding_it_is_tied_to(tmp_path: Path) -> None:
    tensors = hf_tensors()
    embedding = tensors["model.embed_tokens.weight"]
    check(tmp_path, tensors | {"lm_head.weight": embedding.clone()})
    with pytest.raises(UserError, match=r"config\.json ties lm_head\.weight to the embedding, and"):
        check(tmp_path, tensors | {"lm_head.weight": embedding + 1})
