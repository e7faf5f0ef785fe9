import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.transformer.transformer_config import TransformerConfig
from transformers import (
    AutoConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

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

MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
    "decoder_sparse_step": 1,
}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"]}
SMOLLM3 = {"architectures": ["SmolLM3ForCausalLM"]}
QWEN3_VL: dict[str, Any] = {
    **dict.fromkeys(CONFIG),
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "text_config": {name: x for name, x in CONFIG.items() if name != "tie_word_embeddings"},
    "vision_config": {},
    "tie_word_embeddings": True,
}
OPTIONS = get_type_hints(TransformerConfig)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
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
    folder = write(tmp_path, architectures=["Qwen3ForCausalLM"], head_dim=64)
    flags = read_architecture(folder).flags(1)
    assert flags["kv-channels"] == 64
    assert flags["qk-layernorm"] is True
    assert flags["num-experts"] is None


def test_qwen3_without_a_head_size_has_the_one_that_transformers_gives_it(tmp_path: Path) -> None:
    folder = write(tmp_path, architectures=["Qwen3ForCausalLM"])
    assert read_architecture(folder).head_dim == AutoConfig.for_model("qwen3").head_dim == 128


def test_experts_and_their_router(tmp_path: Path) -> None:
    flags = read_architecture(write(tmp_path, **MOE)).flags(1, expert_parallel=4)
    assert flags["num-experts"] == 8
    assert flags["moe-router-topk"] == 2
    assert flags["moe-ffn-hidden-size"] == 24
    # a softmax over the chosen experts' logits is that over all, made to sum to one again
    assert flags["moe-router-pre-softmax"] is False
    raw = read_architecture(write(tmp_path, **(MOE | {"norm_topk_prob": None})))
    assert raw.flags(1)["moe-router-pre-softmax"] is True


def test_number_of_experts_under_the_name_of_transformers_5(tmp_path: Path) -> None:
    folder = write(tmp_path, **(MOE | {"num_experts": None, "num_local_experts": 16}))
    architecture = read_architecture(folder)
    assert architecture.experts is not None
    assert architecture.experts.num_experts == 16


DELTA_NET: dict[str, Any] = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 10,
    "linear_conv_kernel_dim": 3,
    "attn_output_gate": True,
    "mamba_ssm_dtype": "float32",
    "mtp_num_hidden_layers": 1,
    "rope_parameters": {
        "rope_theta": 1e7,
        "rope_type": "default",
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
    },
}
DELTA_NET_EXPERTS = {
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "intermediate_size": None,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}


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


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_output_gate": False},
        {"output_gate_type": "sigmoid"},
        {"norm_topk_prob": False},
        {"shared_expert_intermediate_size": 0},
    ],
)
def test_what_a_model_with_delta_nets_must_be(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path, **DELTA_NET | DELTA_NET_EXPERTS | changes)
    with pytest.raises(UserError, match=f"config.json: field {next(iter(changes))}: "):
        read_architecture(folder)


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


def test_rope_theta_of_older_configs(tmp_path: Path) -> None:
    folder = write(tmp_path, rope_parameters=None, rope_theta=5000.0)
    assert read_architecture(folder).rotary_base == 5000.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "field architectures: GPT2LMHeadModel is not one"),
        ({"hidden_size": None}, "field hidden_size: missing"),
        ({"hidden_size": "48"}, "field hidden_size: '48' is no positive whole number"),
        (MOE | {"num_experts": 0}, "field num_experts: 0 is no positive whole number"),
        (
            {"rope_parameters": {"rope_theta": "1e4"}},
            "field rope_theta: '1e4' is no number",
        ),
        ({"mlp_bias": True}, "field mlp_bias: True is not supported"),
        ({"attention_bias": 1}, "field attention_bias: <class 'int'> is not supported"),
        (QWEN2 | {"attention_bias": True}, "field attention_bias: True is not supported"),
        ({"attention_dropout": 0.1}, "field attention_dropout: 0.1 is not supported"),
        ({"use_sliding_window": True}, "field use_sliding_window: True is not supported"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "field layer_types: 'sliding_attention' is not supported (only 'full_attention')",
        ),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "field quantization_config: {'quant_method': 'fp8'} is not supported",
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
            "field rope_parameters: {'rope_type': 'dynamic', 'factor': 4.0} is not supported (only "
            "rope_type default, linear, llama3, yarn)",
        ),
        ({"rope_scaling": {"type": "yarn"}}, "field rope_scaling: factor is missing"),
        (
            {"rope_scaling": {"type": "linear", "factor": "2"}},
            "field rope_scaling: factor '2' is no positive number",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "finetuned": True}},
            "field rope_scaling: finetuned is not known for rope_type yarn",
        ),
        (
            {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}},
            "field rope_parameters: low_freq_factor must be below high_freq_factor",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "field rope_parameters: {'full_attention': {'rope_theta': 1000000.0}} is not supported",
        ),
        (QWEN2 | {"layer_types": ["chunked"] * 3}, "field layer_types: 'chunked' is not supported"),
        (QWEN2 | {"layer_types": ["full_attention"]}, "field layer_types: 1 entries for 3 layers"),
        (
            QWEN2 | {"layer_types": ["sliding_attention"] * 3},
            "field layer_types: 'sliding_attention' without use_sliding_window and sliding_window",
        ),
        (
            QWEN2 | {"use_sliding_window": True, "sliding_window": 0},
            "field sliding_window: 0 is no positive whole number",
        ),
        (SMOLLM3 | {"no_rope_layers": [1, 1]}, "field no_rope_layers: 2 entries for 3 layers"),
        (SMOLLM3 | {"no_rope_layers": [1, 2, 1]}, "field no_rope_layers: must be a list of 0"),
        (QWEN3_VL | {"text_config": None}, "field text_config: missing"),
        (
            QWEN3_VL | {"text_config": CONFIG | {"hidden_size": 0}},
            "field text_config.hidden_size: 0 is no positive whole number",
        ),
        (QWEN3_VL | {"mm_tokens": 3}, "field mm_tokens is not known here"),
        ({"partial_rotary_factor": 0.5}, "field partial_rotary_factor: 0.5 is not supported"),
        (MOE | {"mlp_only_layers": [0]}, "field mlp_only_layers: [0] is not supported (only [])"),
        (MOE | {"decoder_sparse_step": 2}, "field decoder_sparse_step: 2 is not supported"),
        (MOE | {"num_experts_per_tok": 1}, "field num_experts_per_tok: 1 is not supported with"),
        (MOE | {"num_experts": None}, "field num_experts: missing"),
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


def test_gpt_oss_is_refused_for_what_megatron_has_no_option_for() -> None:
    folder = Path(__file__).parent / "configs" / "gpt-oss-20b"
    with pytest.raises(UserError, match="GptOssForCausalLM is not supported: .* in MXFP4, which"):
        read_architecture(folder)
    # The reason, in Megatron's own words: of four-bit recipes there is another, and there are
    # options for everything else that gpt-oss has.
    assert set(get_args(get_args(OPTIONS["fp4_recipe"])[0])) == {"nvfp4", "custom"}
    assert "learnable" in get_args(OPTIONS["softmax_type"])
    assert {"window_size", "glu_linear_offset", "activation_func_clamp_value"} <= set(OPTIONS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("is_causal", False),
        ("attention_chunk_size", 64),
        ("transformers_weights", "other.safetensors"),
        ("attn_logit_softcapping", 30.0),
        ("logit_scale", 0.5),
        ("text_config", {}),
        ("num_experts", 4),
        ("rope_interleaved", True),
        ("tie_word_embeddings", "yes"),
        ("sparsity_config", {}),
    ],
)
def test_a_field_that_transformers_may_heed_is_refused(
    tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(UserError, match=f"config.json: field {field}"):
        read_architecture(write(tmp_path, **{field: value}))


def test_fields_of_no_effect_are_passed_over(tmp_path: Path) -> None:
    plain = read_architecture(write(tmp_path))
    extra = {"use_cache": False, "auto_map": {"AutoConfig": "a.B"}, "is_causal": True, "top_p": 0.9}
    assert read_architecture(write(tmp_path, **extra)) == plain


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


def test_text_model_of_a_multimodal_one(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path, **QWEN3_VL))
    assert architecture.num_layers == 3
    assert architecture.tied_embeddings  # as the outer config says
    assert architecture.family.multimodal


def test_fewer_key_value_heads_than_ranks(tmp_path: Path) -> None:
    architecture = read_architecture(write(tmp_path, num_attention_heads=12))
    assert architecture.flags(4)["num-query-groups"] == 2
    three = read_architecture(write(tmp_path, num_attention_heads=12, num_key_value_heads=3))
    with pytest.raises(UserError, match="4 is neither a divisor nor a multiple of .* heads .3."):
        three.check_layout(2 * 2, 1)


@pytest.mark.parametrize(
    "kind", [LlamaConfig, Qwen2Config, Qwen3Config, Qwen3MoeConfig, SmolLM3Config]
)
def test_every_field_that_transformers_writes_is_known(tmp_path: Path, kind: type) -> None:
    kind(architectures=[kind.__name__.replace("Config", "ForCausalLM")]).save_pretrained(tmp_path)
    read_architecture(tmp_path)
