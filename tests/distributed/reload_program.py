"""Loads a checkpoint under a layout, writes the logits there and saves it again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_dasd.config.base import Launch
from megatron_dasd.data.rows import packed_row
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import common_flags, load_model


@torch.no_grad()
def main(payload: dict[str, Any]) -> None:
    """Load a checkpoint under a layout, save it again from there, and write the logits of a row.

    Payload: model, checkpoint, save, launch, token_ids, logits: a file for each tensor-parallel
    and context-parallel rank of the last pipeline stage, ``[seq/cp, vocab/tp]``, beside the
    positions that the rank has.
    """
    token_ids = np.array(payload["token_ids"])
    launch = Launch.model_validate(payload["launch"])
    architecture = read_architecture(Path(payload["model"]))
    flags = common_flags(architecture, launch, len(token_ids), "float32")
    flags |= {"save": payload["save"], "save-interval": 1}
    flags |= {"no-save-optim": True, "no-save-rng": True}
    model = load_model(flags, Path(payload["checkpoint"]))
    from megatron.core import mpu
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.training.checkpointing import save_checkpoint

    from megatron_dasd.models.packed import OWN, for_rank, forward, own_share, to_batch

    def step(rows: Iterator[Any], chunk: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        return forward(chunk, next(rows), with_loss=False), lambda output, non_loss_data: output

    document = {"tokens": token_ids, "loss_mask": np.ones(len(token_ids))}
    rank, size = mpu.get_context_parallel_rank(), mpu.get_context_parallel_world_size()
    row = for_rank(packed_row([document], len(token_ids)), rank, size)
    outputs = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter([own_share(to_batch(row))]),
        model=model,
        num_microbatches=1,
        seq_length=len(token_ids),
        micro_batch_size=1,
        forward_only=True,
        collect_non_loss_data=True,
    )
    if outputs and mpu.get_data_parallel_rank() == 0:
        name = f"{mpu.get_tensor_model_parallel_rank()}-{rank}.npz"
        positions = row.get(OWN, np.arange(len(token_ids)))
        np.savez(Path(payload["logits"]) / name, logits=outputs[0][0].numpy(), positions=positions)
    save_checkpoint(0, model, None, None, num_floating_point_operations_so_far=0)
