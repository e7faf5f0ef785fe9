"""Builds the student for Megatron.  The only place that knows ``GPTModel``.

Megatron 0.19 calls ``GPTModel`` deprecated in favour of ``HybridModel``, which loads its
checkpoints but has no ``output_processor`` for a loss of our own.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.extensions.transformer_engine import HAVE_TE
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
    get_transformer_block_with_experimental_attention_variant_spec,
)
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.ssm.gated_delta_net import GatedDeltaNet
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.training import get_args
from megatron.training.arguments import core_transformer_config_from_args
from torch import Tensor

from megatron_dasd.errors import UserError
from megatron_dasd.models import delta_net
from megatron_dasd.models.layers import PackedAttention, RMSNorm, StandaloneRMSNorm
from megatron_dasd.models.output_fusion import leave_to_autograd, output_layer_without_apex
from megatron_dasd.models.rotary import Rotary


class Student(GPTModel):  # type: ignore[misc]
    """Megatron's GPT whose loss knows the vocabulary's true size.

    Megatron pads the vocabulary and lets the padding take part in the softmax, which the exported
    model, scored elsewhere, does not.
    """

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Take the loss.

        Args:
            labels: ``[batch, seq]``.
            logits: ``[seq, batch, vocab/tp]``.

        Returns:
            -ln p(label), ``[batch, seq]``.
        """
        rank = mpu.get_tensor_model_parallel_rank()
        loss: Tensor = super().compute_language_model_loss(
            labels, hide_padding(logits, get_args().vocab_size, rank)
        )
        return loss


def hide_padding(logits: Tensor, vocab_size: int, rank: int) -> Tensor:
    """Take the padded part of the vocabulary out of the softmax.

    Args:
        logits: ``[..., padded vocab/tp]``, the columns of tensor-parallel rank ``rank``.
        vocab_size: true size of the whole vocabulary.
    """
    columns = logits.shape[-1]
    true_columns = max(0, min(columns, vocab_size - rank * columns))
    if true_columns == columns:
        return logits
    padding = torch.arange(columns, device=logits.device) >= true_columns
    return logits.masked_fill(padding, float("-inf"))


def model_provider(
    pre_process: bool = True,
    post_process: bool = True,
    vp_stage: int | None = None,
    config: TransformerConfig | None = None,
    pg_collection: ProcessGroupCollection | None = None,
) -> Student:
    """One pipeline stage of the student, as Megatron's programs ask for it.

    Args:
        pre_process: whether the stage holds the embedding.
        post_process: whether the stage holds the output layer.
    """
    args = get_args()
    config = config or core_transformer_config_from_args(args)
    rotary = Rotary.from_json(args.dasd_rotary) if args.dasd_rotary else None
    if rotary and rotary.share == 1:
        # Scores of wholly rotated heads are multiplied by the factor's square; the fused rotary
        # embedding of packed rows would pass a factor of its own by.
        config.softmax_scale = rotary.attention_factor**2 / sqrt(args.kv_channels)
    with output_layer_without_apex():
        model = Student(
            config=config,
            transformer_layer_spec=_layer_spec(args, config, vp_stage),
            vocab_size=args.padded_vocab_size,
            max_sequence_length=args.max_position_embeddings,
            pre_process=pre_process,
            post_process=post_process,
            parallel_output=True,
            share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
            position_embedding_type="rope",
            rotary_base=args.rotary_base,
            rotary_percent=args.rotary_percent,
            rope_scaling=args.use_rope_scaling,
            rope_scaling_factor=args.rope_scaling_factor,
            vp_stage=vp_stage,
            pg_collection=pg_collection,
        )
    leave_to_autograd(model)
    if rotary:
        set_rotary(model, rotary)
    mark_experts(model)
    return model


def set_rotary(model: Student, rotary: Rotary) -> None:
    """Give a model the frequencies of a rotary embedding that Megatron has no flags for."""
    own = model.rotary_pos_emb
    made = rotary.frequencies(model.config.kv_channels)
    if own.inv_freq.shape != made.shape:
        raise RuntimeError(f"{len(own.inv_freq)} rotary frequencies, {len(made)} expected")
    own.inv_freq = made.to(own.inv_freq.device)
    if rotary.share == 1 or rotary.attention_factor == 1:
        return
    for layer in model.decoder.layers:
        attention = layer.self_attention
        # Layers of other kinds than attention have no such factor.
        if hasattr(attention, "_yarn_concentration_factor"):
            attention._yarn_concentration_factor = rotary.attention_factor


def mark_experts(model: torch.nn.Module) -> None:
    """Let the optimizer keep the experts' parameters apart, however many ranks share them.

    Megatron does so only for more than one such rank, by this mark, and an optimizer's state with
    another grouping of the parameters does not load: a run could not resume with its experts spread
    otherwise than before.
    """
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.allreduce = False  # type: ignore[attr-defined]


def _layer_spec(
    args: Namespace, config: TransformerConfig, vp_stage: int | None
) -> ModuleSpec | TransformerBlockSubmodules:
    if args.transformer_impl == "transformer_engine":
        if not HAVE_TE:
            raise UserError(
                "Transformer Engine does not import; tools/doctor.py says why (without it, "
                "Megatron's own layers train on a GPU too: pip uninstall transformer-engine)"
            )
        if args.experimental_attention_variant:
            return _engine_block_spec(config, vp_stage)
        fused = get_gpt_layer_with_transformer_engine_spec(
            num_experts=args.num_experts,
            moe_grouped_gemm=args.moe_grouped_gemm,
            qk_layernorm=args.qk_layernorm,
        )
        return with_output_bias(fused) if args.dasd_attention_output_bias else fused
    pattern = args.linear_attention_freq or [0] * args.num_layers
    specs = [
        local_layer_spec(args.num_experts, args.qk_layernorm, linear=bool(pattern[layer]))
        for layer in _own_layers(config, vp_stage)
    ]
    if args.dasd_attention_output_bias:  # of families without linear layers
        specs = [with_output_bias(spec) for spec in specs]
    # A spec of the whole block, not of one layer, since only it names the final norm.
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=StandaloneRMSNorm)


def with_output_bias(spec: ModuleSpec) -> ModuleSpec:
    """A layer whose attention has a bias behind its output projection.

    Megatron has a flag for the biases of query, key and value, and one for those of all matrices,
    the feed-forward part's included.
    """
    attention = spec.submodules.self_attention.submodules
    attention.linear_proj = _biased(attention.linear_proj)
    return spec


def _biased(build: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    def with_bias(*args: Any, **options: Any) -> torch.nn.Module:
        return build(*args, **options | {"bias": True})

    return with_bias


def _own_layers(config: TransformerConfig, vp_stage: int | None) -> Sequence[int]:
    """Numbers, from 0, of the layers of this rank's pipeline stage."""
    from megatron.core.transformer.transformer_block import get_num_layers_to_build
    from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

    if config.pipeline_model_parallel_layout is not None:
        layers: list[int] = config.pipeline_model_parallel_layout.get_layer_id_list(
            layer_type=LayerType.decoder, vp_stage=vp_stage
        )
        return layers
    first = get_transformer_layer_offset(config, vp_stage=vp_stage)
    return range(first, first + get_num_layers_to_build(config, vp_stage=vp_stage))


def _engine_block_spec(
    config: TransformerConfig, vp_stage: int | None
) -> TransformerBlockSubmodules:
    """Megatron's layers of Transformer Engine with gated delta nets among them."""
    delta_net.install()
    spec = get_transformer_block_with_experimental_attention_variant_spec(config, vp_stage)
    for layer in spec.layer_specs:  # those of one kind share their attention's spec
        attention = layer.submodules.self_attention
        if attention.module is GatedDeltaNet:
            attention.module = delta_net.DeltaNet
            attention.submodules.out_norm = delta_net.UncentredEngineNorm
    return spec


def local_layer_spec(
    num_experts: int | None, qk_layernorm: bool, linear: bool = False
) -> ModuleSpec:
    """Megatron's own layer without Transformer Engine, with our attention and norms.

    Its checkpoints carry Transformer Engine's names, so that either spec loads the other's.

    Args:
        linear: whether a gated delta net stands in place of attention.
    """
    spec = get_gpt_layer_local_spec(
        num_experts=num_experts, qk_layernorm=qk_layernorm, normalization="RMSNorm"
    )
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    if linear:
        layer.self_attention = delta_net.local_spec()
        names = layer.sharded_state_dict_keys_map
        names["input_layernorm."] = "self_attention.in_proj.layer_norm_"
    else:
        attention = layer.self_attention.submodules
        attention.core_attention = PackedAttention
        if qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = StandaloneRMSNorm
    if num_experts:
        layer.pre_mlp_layernorm = StandaloneRMSNorm
        # Transformer Engine fuses this norm into a dense layer only; Megatron's map of names
        # renames it for experts too.
        del layer.sharded_state_dict_keys_map["pre_mlp_layernorm."]
    return spec
