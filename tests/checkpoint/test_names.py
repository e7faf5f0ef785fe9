import torch

from megatron_dasd.checkpoint.names import join_qkv, split_qkv, tensor_mappings
from megatron_dasd.models.architecture import Architecture, Experts
from megatron_dasd.models.families import FAMILIES
from megatron_dasd.models.linear_attention import LinearAttention

DELTA_NET = LinearAttention(
    layers=(True, False),
    num_key_heads=2,
    num_value_heads=4,
    key_head_dim=3,
    value_head_dim=5,
    conv_width=4,
)


def architecture(family: str = "LlamaForCausalLM", tied: bool = True) -> Architecture:
    experts = Experts(
        num_experts=3,
        experts_per_token=2,
        ffn_hidden_size=4,
        weights_sum_to_one=True,
        shared_ffn_hidden_size=7 if FAMILIES[family].shared_expert else None,
    )
    return Architecture(
        family=FAMILIES[family],
        num_layers=2,
        hidden_size=8,
        num_attention_heads=4,
        num_query_groups=2,
        head_dim=1,
        ffn_hidden_size=6,
        vocab_size=130,
        max_position_embeddings=64,
        norm_epsilon=1e-5,
        rotary_base=10000,
        tied_embeddings=tied,
        experts=experts if FAMILIES[family].experts else None,
        linear=DELTA_NET if FAMILIES[family].linear_attention else None,
    )


def test_qkv_is_grouped_by_key_value_head() -> None:
    query = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    key, value = torch.tensor([[10.0], [11.0]]), torch.tensor([[20.0], [21.0]])
    joined = join_qkv([query, key, value], architecture())
    # group 0: queries 0 and 1, key 10, value 20; then group 1
    assert joined.flatten().tolist() == [0.0, 1.0, 10.0, 20.0, 2.0, 3.0, 11.0, 21.0]
    back = split_qkv(joined, architecture())
    assert [t.flatten().tolist() for t in back] == [
        [0.0, 1.0, 2.0, 3.0],
        [10.0, 11.0],
        [20.0, 21.0],
    ]


def test_a_gate_stands_behind_the_queries_of_its_group() -> None:
    # heads 0 to 3, each its query, then its gate
    query = torch.tensor([[0.0], [100.0], [1.0], [101.0], [2.0], [102.0], [3.0], [103.0]])
    key, value = torch.tensor([[10.0], [11.0]]), torch.tensor([[20.0], [21.0]])
    gated = architecture("Qwen3_5ForCausalLM")
    joined = join_qkv([query, key, value], gated)
    assert joined.flatten().tolist() == [
        *(0.0, 1.0, 100.0, 101.0, 10.0, 20.0),
        *(2.0, 3.0, 102.0, 103.0, 11.0, 21.0),
    ]
    back = split_qkv(joined, gated)
    assert all(torch.equal(a, b) for a, b in zip(back, [query, key, value], strict=True))


def test_delta_nets_stand_where_the_config_has_them() -> None:
    table = {m.megatron: m for m in tensor_mappings(architecture("Qwen3_5MoeForCausalLM"))}
    layer, theirs = "decoder.layers.0.self_attention.", "model.layers.0.linear_attn."
    assert {name.removeprefix(layer): m.hf for name, m in table.items() if layer in name} == {
        "in_proj.weight": tuple(f"{theirs}in_proj_{x}.weight" for x in ("qkv", "z", "b", "a")),
        "conv1d.weight": (f"{theirs}conv1d.weight",),
        "dt_bias": (f"{theirs}dt_bias",),
        "A_log": (f"{theirs}A_log",),
        "out_norm.weight": (f"{theirs}norm.weight",),
        "out_proj.weight": (f"{theirs}out_proj.weight",),
    }
    assert "decoder.layers.1.self_attention.linear_qkv.weight" in table
    # 2 x 6 channels of queries and keys and 20 of values; 20 of the gate; 4 betas; 4 alphas
    parts = table[f"{layer}in_proj.weight"].split(torch.arange(60.0).reshape(60, 1))
    assert [len(part) for part in parts] == [32, 20, 4, 4]
    shared = table["decoder.layers.1.mlp.shared_experts.gate_weight"]
    assert shared.hf == ("model.layers.1.mlp.shared_expert_gate.weight",)


def test_vocabulary_is_padded_with_zeros_and_cropped() -> None:
    mapping = next(tensor_mappings(architecture()))
    weight = torch.randn(130, 8)
    padded = mapping.join([weight])
    assert padded.shape == (256, 8)
    assert padded[130:].abs().sum() == 0
    assert torch.equal(mapping.split(padded)[0], weight)


def test_every_name_occurs_once() -> None:
    for family in FAMILIES:
        for tied in (True, False):
            table = list(tensor_mappings(architecture(family, tied)))
            ours = [mapping.megatron for mapping in table]
            theirs = [name for mapping in table for name in mapping.hf]
            assert len(set(ours)) == len(ours)
            assert len(set(theirs)) == len(theirs)
            assert ("lm_head.weight" in theirs) is not tied


def test_gate_stands_before_up() -> None:
    (mapping,) = [
        r
        for r in tensor_mappings(architecture())
        if r.megatron == "decoder.layers.1.mlp.linear_fc1.weight"
    ]
    assert mapping.hf == (
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    )
    gate, up = torch.full((6, 8), 1.0), torch.full((6, 8), 2.0)
    joined = mapping.join([gate, up])
    assert joined[:, 0].tolist() == [1.0] * 6 + [2.0] * 6
    assert all(torch.equal(a, b) for a, b in zip(mapping.split(joined), [gate, up], strict=True))


def test_experts_have_tensors_of_their_own() -> None:
    layer = "decoder.layers.1.mlp."
    table = {
        mapping.megatron: mapping.hf
        for mapping in tensor_mappings(architecture("Qwen3MoeForCausalLM"))
    }
    ours = {name: hf for name, hf in table.items() if name.startswith(layer)}
    assert ours == {
        f"{layer}router.weight": ("model.layers.1.mlp.gate.weight",),
        **{
            f"{layer}experts.local_experts.{e}.linear_fc1.weight": (
                f"model.layers.1.mlp.experts.{e}.gate_proj.weight",
                f"model.layers.1.mlp.experts.{e}.up_proj.weight",
            )
            for e in range(3)
        },
        **{
            f"{layer}experts.local_experts.{e}.linear_fc2.weight": (
                f"model.layers.1.mlp.experts.{e}.down_proj.weight",
            )
            for e in range(3)
        },
    }
