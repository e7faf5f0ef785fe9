"""Megatron's own GPT training, as its users run it: its layers, loss and data set.

The peer of ``benchmarks.training``.  Payload: ``argv``, Megatron's flags; ``metrics``, a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_dasd.device.launch import run_program
from megatron_dasd.models.program import parse_argv

if TYPE_CHECKING:  # main() sets torch up before it is imported
    import torch
    from torch import Tensor

    Loss = tuple[Tensor, Tensor, dict[str, Tensor]]
    """Sum, number of tokens, and the values to log."""


def main(payload: dict[str, Any]) -> None:
    """Train."""
    args = parse_argv(payload["argv"])
    from megatron.core.enums import ModelType
    from megatron.training import pretrain, set_startup_timestamps
    from megatron.training.argument_utils import pretrain_cfg_container_from_args

    from megatron_dasd.training import megatron_log

    megatron_log.install(Path(payload["metrics"]), recorder=None)
    set_startup_timestamps(program_start=time.time(), main_entry=time.time())
    pretrain(
        pretrain_cfg_container_from_args(args),
        _data_sets,
        ModelType.encoder_or_decoder,
        _forward_step,
        model_provider=_model,
    )


def _model(
    pre_process: bool = True, post_process: bool = True, **further: object
) -> torch.nn.Module:
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
    from megatron.training import get_args
    from megatron.training.arguments import core_transformer_config_from_args

    args = get_args()
    spec = get_gpt_layer_local_spec(qk_layernorm=args.qk_layernorm, normalization="RMSNorm")
    config = further.pop("config", None) or core_transformer_config_from_args(args)
    model: torch.nn.Module = GPTModel(
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules(
            layer_specs=[spec] * args.num_layers, layer_norm=WrappedTorchNorm
        ),
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        pre_process=pre_process,
        post_process=post_process,
        parallel_output=True,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_base=args.rotary_base,
        **further,
    )
    return model


def _data_sets(num_samples: list[int], vp_stage: int | None = None) -> list[object]:
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
    from megatron.training import get_args

    args = get_args()
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=([args.data_path[0]], None),
        split="1,0,0",
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        tokenizer=build_tokenizer(args),
        mid_level_dataset_surplus=0.005,
    )
    builder = BlendedMegatronDatasetBuilder(GPTDataset, num_samples, lambda: True, config)
    found: list[object] = builder.build()
    return found


def _forward_step(
    batches: Iterator[dict[str, Tensor]], model: torch.nn.Module
) -> tuple[Tensor, Callable[[Tensor], Loss]]:
    batch = next(batches)
    losses = model(
        batch["tokens"], batch["position_ids"], batch["attention_mask"], labels=batch["labels"]
    )
    return losses, partial(_summed, batch["loss_mask"])


def _summed(mask: Tensor, losses: Tensor) -> Loss:
    import torch

    mask = mask.view(-1).float()
    total = (losses.view(-1).float() * mask).sum()
    num_tokens = mask.sum().int()
    return total, num_tokens, {"lm loss": torch.stack([total.detach(), num_tokens.float()])}


if __name__ == "__main__":
    run_program(main)
