"""Sequence cross-entropy: the loss of sequence-level distillation.

Each loss returns a sum and a count.  Megatron adds both up over micro-batches and ranks and divides
once (``--calculate-per-token-loss``), so a token or sequence weighs the same under every layout:

    per token      sum_t w_t l_t / number of loss tokens
    per sequence   sum_s (sum_{t in s} w_t l_t / loss tokens of s) / number of sequences with any

A loss token is a token with a weight above 0.  Weights appear in the numerator only, because
Megatron adds the divisor up as an integer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_dasd.config.choices import Normalisation


def token_shares(
    weights: Tensor, position_ids: Tensor, normalisation: Normalisation
) -> tuple[Tensor, Tensor]:
    """Compute the factor of every token's loss in the sum, and its share in the count.

    Both are given token by token, so a row whose tokens are later divided over ranks still counts
    each sequence once.

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
    # A sequence is counted at its first loss token, which has as many loss tokens before it as
    # there are in earlier sequences.
    before = counted.cumsum(0) - counted
    before_sequence = lengths.cumsum(0) - lengths
    first = counts & (before == before_sequence[sequence])
    return weights.float() / lengths[sequence].clamp(min=1), first.int()


def weighted_loss(
    factors: Tensor, counts: Tensor, token_loss: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum the token losses.

    Args:
        factors: ``[batch, seq]``, the factor of each loss; 0: the token is ignored.
        counts: ``[batch, seq]``, each token's share of the divisor.
        token_loss: ``[batch, seq]``, -ln p(label), as Megatron's model returns it.

    Returns:
        The sum in nats; the divisor, an int32 (Megatron's schedules add it up as an integer); and
        the values to log by name, each ``[sum, count]``.
    """
    factors, losses = factors.reshape(-1), token_loss.reshape(-1).float()
    # where, not the product alone: 0 x inf of a masked token would be a NaN
    return divided_loss(counts, (factors * losses.where(factors > 0, 0.0)).sum())


def divided_loss(counts: Tensor, total: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """As :func:`weighted_loss`, for a sum that is already computed."""
    divisor = counts.sum().int()
    return total, divisor, {"lm loss": torch.stack([total.detach(), divisor.float()])}


def class_losses(
    factors: Tensor, token_loss: Tensor, classes: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """Compute the mean loss of each class of tokens, for logging.

    Every name is present whether the row has the class or not, because Megatron sums over ranks
    name by name.  A class that no rank has becomes 0 / 0, which the logger drops.

    Args:
        factors: ``[batch, seq]``, 0 where a token is ignored.
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
