"""One forward step, as Megatron's schedules call it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from megatron_dasd.losses.cross_entropy import masked_token_loss
from megatron_dasd.models.packed import Batch, forward


def forward_step(
    data_iterator: Iterator[Batch], model: torch.nn.Module, return_schedule_plan: bool = False
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Megatron's ``forward_step_func``: output of the stage and the loss to be taken of it."""
    batch = next(data_iterator)
    return forward(model, batch), partial(masked_token_loss, batch["loss_mask"])
