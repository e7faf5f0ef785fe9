"""Sequence cross-entropy: the loss of sequence-level distillation.

Each loss returns a sum and a count; Megatron adds both up over micro-batches and ranks and divides
once (``--calculate-per-token-loss``), so that what counts weighs the same under every layout:

    per token      sum_t w_t l_t / number of loss tokens
    per sequence   sum_s (sum_{t in s} w_t l_t / loss tokens of s) / number of sequences with any

A loss token is one with a weight above 0.  Weights stand in the numerator alone: Megatron adds the
divisor up as an integer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_dasd.config.training import Normalisation


def token_shares(
    weights: Tensor, position_ids: Tensor, normalisation: Normalisation
) -> tuple[Tensor, Tensor]:
    """What every token of a row adds to the sum, by its loss, and to the count.

    Both are given token by token, so that a row whose tokens are divided over ranks afterwards
    still counts each sequence once.

    Args:
        weights: ``[seq]``, at least 0.
        position_ids: ``[seq]``, 0 where a sequence begins.

    Returns:
        Factors ``[seq]`` float32, and counts ``[seq]`` int32, 0 or 1.
    """
    counts = weights > 0
    if normalisation == "token":
        return weights.float(), counts.int()
    sequence = (position_ids == 0).long().cumsum(0) - 1
    counted = counts.long()
    lengths = torch.zeros_like(counted).scatter_add_(0, sequence, counted)
    # A sequence counts at its first loss token: as many lie before it as in earlier sequences.
    before = counted.cumsum(0) - counted
    before_sequence = lengths.cumsum(0) - lengths
    first = counts & (before == before_sequence[sequence])
    return weights.float() / lengths[sequence].clamp(min=1), first.int()


def weighted_loss(
    factors: Tensor, counts: Tensor, token_loss: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum of the token losses that count.

    Args:
        factors: ``[batch, seq]``, what each loss is multiplied by; 0: it does not count.
        counts: ``[batch, seq]``, what each token adds to the divisor.
        token_loss: ``[batch, seq]``, -ln p(label), as Megatron's model returns it.

    Returns:
        The sum in nats; the divisor, an int32 (Megatron's schedules add it up as an integer);
        what is logged, by name, as ``[sum, count]``.
    """
    factors, losses = factors.reshape(-1), token_loss.reshape(-1).float()
    # where, not the product alone: 0 x inf of a masked token would be a NaN
    return divided_loss(counts, (factors * losses.where(factors > 0, 0.0)).sum())


def divided_loss(counts: Tensor, total: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The same of a sum that is known; arguments and results as in :func:`weighted_loss`."""
    divisor = counts.sum().int()
    return total, divisor, {"lm loss": torch.stack([total.detach(), divisor.float()])}


def class_losses(
    factors: Tensor, token_loss: Tensor, classes: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """Losses of the classes that tokens belong to, to be logged.

    Every name is there whether the row has the class or not: Megatron sums over ranks name by
    name.  A class that no rank has comes out as 0 / 0 and is dropped where it is logged.

    Args:
        factors: ``[batch, seq]``, 0 where a token's loss does not count.
        token_loss: ``[batch, seq]``
        classes: ``[batch, seq]``, from 1 in the order of the names; 0: none.

    Returns:
        ``[sum, count]`` of the unweighted losses of each class's loss tokens, by name.
    """
    losses, numbers = token_loss.detach().reshape(-1).float(), classes.reshape(-1).long()
    counts = factors.reshape(-1) > 0
    numbers = numbers.where(counts, 0)
    sums = torch.zeros(2, len(names) + 1, device=losses.device)
    sums[0].scatter_add_(0, numbers, losses.where(counts, 0.0))
    sums[1].scatter_add_(0, numbers, counts.float())
    return {f"{name} loss": sums[:, number] for number, name in enumerate(names, start=1)}
