"""Reads the ``config.json`` of a Hugging Face model.

Options of a config that Megatron would not honour are refused by name, never ignored: a model
that trains with another rotary embedding than it is served with is wrong without an error.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Architecture, Experts
from megatron_dasd.models.config_fields import unknown_fields, unknown_outer_fields
from megatron_dasd.models.families import FAMILIES, REFUSED, Family
from megatron_dasd.models.layer_types import FULL, read_rotated, read_window
from megatron_dasd.models.linear_attention import read_linear_attention
from megatron_dasd.models.rotary import read_rotary

HfConfig = dict[str, Any]  # a config.json as parsed: its fields are checked one by one

_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
_DENSE_SIZES = ("intermediate_size",)
_SHARED_EXPERT_SIZES = ("shared_expert_intermediate_size",)
_EXPERT_SIZES = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
_UNKNOWN = "is not known here and may change what the model computes; take it out if it does not"


def read_architecture(folder: Path) -> Architecture:
    """Read ``config.json`` of a Hugging Face folder.

    Raises:
        UserError: no config there, an unknown family, or an option that Megatron would not honour.
    """
    path = folder / "config.json"
    config = _read_json(path)
    family = FAMILIES[_family_name(config, path)]
    for problem in config_problems(config, family, path):
        raise UserError(problem)
    text, where = text_config(config, family, path)
    return _from_config(text, family, where)


def config_problems(config: HfConfig, family: Family, path: Path) -> Iterator[str]:
    """All that stands against training a model of a config as one of a family.

    Args:
        path: of the config, for messages.
    """
    if family.multimodal:
        for name in unknown_outer_fields(config):
            yield f"{path}: field {name} {_UNKNOWN}"
    try:
        text, where = text_config(config, family, path)
    except UserError as error:
        yield str(error)
        return
    kinds = (family.experts, family.no_rope_layers, family.linear_attention)
    for name in unknown_fields(text, *kinds):
        yield f"{where}{name} {_UNKNOWN}"
    whole = True
    for name in (
        *_SIZES,
        *_DENSE_SIZES * (not family.shared_expert),
        *_EXPERT_SIZES * family.experts,
        *_SHARED_EXPERT_SIZES * family.shared_expert,
    ):
        size = text.get(_field(name, text))
        if size is None:
            yield f"{where}{_field(name, text)}: missing"
        elif type(size) is not int or size < 1:
            yield f"{where}{name}: {size!r} is no positive whole number"
        else:
            continue
        whole = False
    for name, value, only in _supported_values(text, family):
        if value != only:
            yield f"{where}{name}: {value!r} is not supported (only {only!r})"
    if whole:
        try:
            _from_config(text, family, where)
        except UserError as error:
            yield str(error)


def _read_json(path: Path) -> HfConfig:
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a Hugging Face model folder is needed") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a JSON object")
    return config


def _family_name(config: HfConfig, path: Path) -> str:
    name = next(iter(config.get("architectures") or ["?"]))
    if name in REFUSED:
        raise UserError(f"{path}: field architectures: {name} is not supported: {REFUSED[name]}")
    if name not in FAMILIES:
        raise UserError(f"{path}: field architectures: {name} is not one of {', '.join(FAMILIES)}")
    return str(name)


def text_config(config: HfConfig, family: Family, path: Path) -> tuple[HfConfig, str]:
    """The config of the text model, and how messages say where it stands.

    Of a multimodal model, whether the output layer is the embedding is said by the outer config, as
    ``transformers`` has it.

    Raises:
        UserError: the family is multimodal, and there is no config of its text model.
    """
    if not family.multimodal:
        return config, f"{path}: field "
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise UserError(f"{path}: field text_config: missing")
    tied = config.get("tie_word_embeddings", False)
    return {**text, "tie_word_embeddings": tied}, f"{path}: field text_config."


def _from_config(config: HfConfig, family: Family, where: str) -> Architecture:
    heads = config["num_attention_heads"]
    rotary = read_rotary(config, where, family.rope_theta, family.rotary_percent)
    rotated = read_rotated(config, where) if family.no_rope_layers else ()
    window, windowed = read_window(config, where, rotated) if family.windows else (None, ())
    epsilon = config.get("rms_norm_eps")
    if not isinstance(epsilon, int | float):
        raise UserError(f"{where}rms_norm_eps: {epsilon!r} is no number")
    experts = _experts(config, family, where) if family.experts else None
    return Architecture(
        family=family,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_attention_heads=heads,
        num_query_groups=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or family.head_dim or config["hidden_size"] // heads,
        # Megatron wants a width of dense layers of a model without any, too.
        ffn_hidden_size=(
            experts.ffn_hidden_size
            if experts and family.shared_expert
            else config["intermediate_size"]
        ),
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        norm_epsilon=epsilon,
        rotary_base=rotary.base,
        tied_embeddings=config.get("tie_word_embeddings", family.tied),
        rotary=rotary,
        attention_bias=bool(config.get("attention_bias")),
        rotated=rotated,
        window=window,
        windowed=windowed,
        experts=experts,
        linear=read_linear_attention(config, where) if family.linear_attention else None,
    )


def _supported_values(config: HfConfig, family: Family) -> Iterator[tuple[str, object, object]]:
    """Fields that Megatron's flags leave no choice in: name, value, the only one supported."""
    yield "tie_word_embeddings", type(config.get("tie_word_embeddings", family.tied)), bool
    yield "hidden_act", config.get("hidden_act", "silu"), "silu"
    yield "mlp_bias", config.get("mlp_bias", False), False
    if family.attention_bias:
        yield "attention_bias", type(config.get("attention_bias", False)), bool
    else:
        yield "attention_bias", config.get("attention_bias", False), False
    yield "attention_dropout", config.get("attention_dropout", 0.0), 0.0
    yield "rope_interleaved", config.get("rope_interleaved", False), False
    yield "is_causal", config.get("is_causal", True), True
    yield "is_decoder", config.get("is_decoder", False), False
    yield "add_cross_attention", config.get("add_cross_attention", False), False
    if family.linear_attention:
        yield "attn_output_gate", config.get("attn_output_gate", True), True
        yield "output_gate_type", config.get("output_gate_type", "swish"), "swish"
    elif not family.windows:
        yield "use_sliding_window", config.get("use_sliding_window", False), False
        for kind in config.get("layer_types") or []:
            yield "layer_types", kind, FULL
    yield "quantization_config", config.get("quantization_config"), None
    if family.experts:
        yield "decoder_sparse_step", config.get("decoder_sparse_step", 1), 1
        yield "mlp_only_layers", config.get("mlp_only_layers") or [], []
    if family.shared_expert:
        yield "norm_topk_prob", config.get("norm_topk_prob", True), True


def _field(name: str, config: HfConfig) -> str:
    """Transformers 5 writes num_experts under the name that its families share."""
    return "num_local_experts" if name == "num_experts" and "num_local_experts" in config else name


def _experts(config: HfConfig, family: Family, where: str) -> Experts:
    experts = Experts(
        num_experts=config[_field("num_experts", config)],
        experts_per_token=config["num_experts_per_tok"],
        ffn_hidden_size=config["moe_intermediate_size"],
        weights_sum_to_one=config.get("norm_topk_prob", family.shared_expert),
        shared_ffn_hidden_size=(
            config["shared_expert_intermediate_size"] if family.shared_expert else None
        ),
    )
    if experts.experts_per_token == 1 and experts.weights_sum_to_one:
        raise UserError(
            f"{where}num_experts_per_tok: 1 is not supported with norm_topk_prob: Megatron "
            "has no router whose one expert weighs 1"
        )
    return experts
