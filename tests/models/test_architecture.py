from pathlib import Path

import pytest
import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from transformers import (
    LlamaConfig,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megatron_dasd.errors import UserError
from megatron_dasd.models.hf_config import read_architecture
from tests.models.small_configs import (
    DELTA_NET,
    DELTA_NET_EXPERTS,
    LLAMA3,
    MOE,
    QWEN2,
    SMOLLM3,
    write,
)


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
    folder = write(tmp_path, architectures=["Qwen3ForCausalLM"], head_dim=64)
    flags = read_architecture(folder).flags(1)
    assert flags["kv-channels"] == 64
    assert flags["qk-layernorm"] is True
    assert flags["num-experts"] is None


def test_experts_and_their_router(tmp_path: Path) -> None:
    flags = read_architecture(write(tmp_path, **MOE)).flags(1, expert_parallel=4)
    assert flags["num-experts"] == 8
    assert flags["moe-router-topk"] == 2
    assert flags["moe-ffn-hidden-size"] == 24
    # a softmax over the chosen experts' logits is that over all, made to sum to one again
    assert flags["moe-router-pre-softmax"] is False
    raw = read_architecture(write(tmp_path, **(MOE | {"norm_topk_prob": None})))
    assert raw.flags(1)["moe-router-pre-softmax"] is True


def test_gated_delta_nets_and_gated_attention(tmp_path: Path) -> None:
    flags = read_architecture(write(tmp_path, **DELTA_NET)).flags(2)
    assert flags["experimental-attention-variant"] == "gated_delta_net"
    assert flags["linear-attention-freq"] == "[1,1,1,0]"
    assert flags["linear-num-value-heads"] == 4
    assert flags["linear-value-head-dim"] == 10
    assert flags["attention-output-gate"] is True
    assert flags["apply-layernorm-1p"] is True
    assert flags["rotary-percent"] == 0.25  # as transformers has it where no field says so
    assert flags["moe-shared-expert-gate"] is False
    plain = read_architecture(write(tmp_path)).flags(2)
    assert plain["attention-output-gate"] is plain["apply-layernorm-1p"] is False
    assert plain["linear-attention-freq"] is None
    assert plain["rotary-percent"] == 1.0
    with pytest.raises(UserError, match=r"context_parallel 2 does not divide .* key heads \(2\)"):
        read_architecture(write(tmp_path, **DELTA_NET)).check_layout(2, 1, context_parallel=2)


def test_partial_rotary_embedding_of_a_family_that_has_it(tmp_path: Path) -> None:
    rope = {"rope_theta": 1e7, "rope_type": "default", "partial_rotary_factor": 0.5}
    folder = write(tmp_path, **DELTA_NET | {"rope_parameters": rope})
    assert read_architecture(folder).flags(1)["rotary-percent"] == 0.5
    with pytest.raises(UserError, match=r"partial_rotary_factor: 0.5 is not supported \(only 1.0"):
        read_architecture(write(tmp_path, rope_parameters=rope))
    rope["partial_rotary_factor"] = 1.5
    folder = write(tmp_path, **DELTA_NET | {"rope_parameters": rope})
    with pytest.raises(UserError, match=r"1.5 is not supported \(above 0, at most 1\)"):
        read_architecture(folder)


def test_a_shared_expert_with_its_gate(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path, **DELTA_NET | DELTA_NET_EXPERTS))
    flags = architecture.flags(1)
    assert flags["moe-shared-expert-intermediate-size"] == 40
    assert flags["moe-shared-expert-gate"] is True
    assert flags["moe-router-pre-softmax"] is False
    with pytest.raises(UserError, match=r"tensor_parallel 3 does not divide .* \(\d+\)"):
        architecture.check_layout(3, 1)


def test_experts_that_do_not_split(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path, **MOE))
    with pytest.raises(UserError, match=r"expert_parallel 3 does not divide .* experts \(8\)"):
        architecture.flags(1, expert_parallel=3)
    dense = read_architecture(write(tmp_path))
    with pytest.raises(UserError, match=r"expert_parallel 2 does not divide .* experts \(1\)"):
        dense.flags(1, expert_parallel=2)


def test_llama3_scaling_is_megatrons_own(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path, rope_parameters=LLAMA3 | {"factor": 32.0}))
    flags = architecture.flags(1)
    assert flags["use-rope-scaling"] is True
    assert flags["rope-scaling-factor"] == 32.0
    plain = read_architecture(write(tmp_path)).flags(1)
    assert (plain["use-rope-scaling"], plain["rope-scaling-factor"]) == (False, None)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_megatrons_scaled_frequencies_equal_those_of_transformers(factor: float) -> None:
    config = LlamaConfig(
        head_dim=128, max_position_embeddings=131072, rope_parameters=LLAMA3 | {"factor": factor}
    )
    theirs, attention_scale = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    ours = RotaryEmbedding(
        kv_channels=128,
        rotary_percent=1.0,
        rotary_base=500000,
        rope_scaling=True,
        rope_scaling_factor=factor,
        use_cpu_initialization=True,
    ).inv_freq
    assert attention_scale == 1.0
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    # some are kept, some divided by the factor, some lie between
    ratio = theirs * 500000 ** (torch.arange(0, 128, 2) / 128)
    assert ratio[0] == 1.0
    torch.testing.assert_close(ratio[-1], torch.tensor(1 / factor))
    assert ((ratio < 0.9) & (ratio > 1.1 / factor)).any()


def test_heads_that_do_not_split(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path, num_attention_heads=9, num_key_value_heads=3))
    with pytest.raises(UserError, match=r"tensor_parallel 2 does not divide .* heads \(9\)"):
        architecture.flags(2)


def test_flags_of_windows_count_keys_beside_the_token(tmp_path: Path) -> None:
    window = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
    flags = read_architecture(write(tmp_path, **QWEN2, **window)).flags(1)
    assert flags["window-size"] == "4,0"
    assert flags["window-attn-skip-freq"] == "[0,0,1]"
    plain = read_architecture(write(tmp_path, **QWEN2)).flags(1)
    assert (plain["window-size"], plain["window-attn-skip-freq"]) == (None, None)


def test_megatrons_list_of_layers_without_rotation_is_the_other_way_round(tmp_path: Path) -> None:
    folder = write(tmp_path, **SMOLLM3, no_rope_layers=[1, 0, 1])
    assert read_architecture(folder).flags(1)["no-rope-freq"] == "[0,1,0]"
    rotated = read_architecture(write(tmp_path, **SMOLLM3, no_rope_layers=[1, 1, 1]))
    assert rotated.flags(1)["no-rope-freq"] is None


def test_biases_of_attention_alone(tmp_path: Path) -> None:
    flags = read_architecture(write(tmp_path, attention_bias=True)).flags(1)
    assert flags["add-qkv-bias"] is flags["dasd-attention-output-bias"] is True
    assert flags["disable-bias-linear"] is True
    flags = read_architecture(write(tmp_path, **QWEN2)).flags(1)
    assert (flags["add-qkv-bias"], flags["dasd-attention-output-bias"]) == (True, False)


def test_fewer_key_value_heads_than_ranks(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path, num_attention_heads=12))
    assert architecture.flags(4)["num-query-groups"] == 2
    three = read_architecture(write(tmp_path, num_attention_heads=12, num_key_value_heads=3))
    with pytest.raises(UserError, match="4 is neither a divisor nor a multiple of .* heads .3."):
        three.check_layout(2 * 2, 1)


def test_channels_of_query_key_and_value_with_an_output_gate(tmp_path: Path) -> None:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 5}
    gated = read_architecture(write(tmp_path, **DELTA_NET | sizes | {"linear_num_key_heads": 4}))
    # of 4 query heads, their gates, 1 key head and 1 value head
    with pytest.raises(UserError, match=r"query, key and value channels \(50\)"):
        gated.check_layout(4, 1)
    gated.check_layout(2, 1)
