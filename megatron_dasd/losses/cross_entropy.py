"""Sequence cross-entropy: the loss of sequence-level distillation.

Each loss returns a sum and a count; Megatron adds both up over micro-batches and ranks and divides
once (``--calculate-per-token-loss``), so every loss token weighs the same under every layout.
"""

import torch
from torch import Tensor


def masked_token_loss(
    loss_mask: Tensor, token_loss: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum of the token losses that count.

    Args:
        loss_mask: ``[batch, seq]``, 1 where the token's label counts, else 0.
        token_loss: ``[batch, seq]``, -ln p(label), as Megatron's model returns it.

    Returns:
        The sum in nats; the number of tokens that count, an int32 (Megatron's schedules add the
        divisor up as an integer); what is logged, by name, as ``[sum, count]``.
    """
    counts = loss_mask.reshape(-1) > 0
    # where, not a product: 0 x inf of a masked token would be a NaN
    total = token_loss.reshape(-1).float().where(counts, 0.0).sum()
    num_tokens = counts.sum().int()
    return total, num_tokens, {"lm loss": torch.stack([total.detach(), num_tokens.float()])}
