"""Whether losses are numbers, asked once a step rather than once a row."""

import torch
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.training import get_args
from torch import Tensor

from megatron_dasd.errors import UserError


class LossCheck:
    """Keeps the losses of a step's rows until the last of them is there.

    Reading a number waits for all work on the GPU, so it is done once, before the gradients of the
    step are used.
    """

    def __init__(self) -> None:
        """No loss yet."""
        self._losses: list[Tensor] = []
        self._rows: list[Tensor] = []

    def add(self, loss: Tensor, row: Tensor) -> None:
        """Take the loss of a row, and at a step's last one check all of them.

        Args:
            loss: a single number.
            row: int64 ``[1]``, the row's number in the data.

        Raises:
            UserError: a loss of the step is not finite.
        """
        self._losses.append(loss.detach().float().reshape(1))
        self._rows.append(row)
        if len(self._losses) < get_num_microbatches():
            return
        losses, rows = torch.cat(self._losses), torch.cat(self._rows)
        self._losses, self._rows = [], []
        if not torch.isfinite(losses).all():
            _raise(losses.tolist(), rows.tolist())


def _raise(losses: list[float], rows: list[int]) -> None:
    found = zip(losses, rows, strict=True)
    loss, number = next(pair for pair in found if not abs(pair[0]) < float("inf"))
    rank = torch.distributed.get_rank()
    raise UserError(
        f"iteration {get_args().curr_iteration + 1}, rank {rank}: the loss of row {number} is "
        f"{loss}; lower the lr, or look at tools/inspect_data.py DATA --row {number}"
    )
