"""One forward step, as Megatron's schedules call it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.training import get_args
from torch import Tensor

from megatron_dasd.losses.cross_entropy import Normalisation, token_shares, weighted_loss
from megatron_dasd.losses.output_layer import token_losses
from megatron_dasd.models.packed import Batch, forward


def forward_step(
    data_iterator: Iterator[Batch],
    model: torch.nn.Module,
    return_schedule_plan: bool = False,
    *,
    normalise_by: Normalisation,
    chunked_loss: bool,
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Megatron's ``forward_step_func``: output of the stage and the loss to be taken of it.

    Args:
        normalise_by: see ``losses.cross_entropy``.
        chunked_loss: whether output layer and loss are taken together, see
            ``losses.linear_logprobs``.
    """
    batch = next(data_iterator)
    processor = partial(token_losses, vocab_size=get_args().vocab_size) if chunked_loss else None
    output = forward(model, batch, output_processor=processor)
    shares = token_shares(
        batch["loss_mask"].flatten(), batch["position_ids"].flatten(), normalise_by
    )
    return output, partial(weighted_loss, *shares)
