"""Weighted cross-entropy from hidden states; the forward pass computes the gradients.

The output projection and the loss are computed together, one slice of the *tokens* at a time over
the whole vocabulary.  A slice's softmax is then known at once, and with it the gradients, so its
logits are computed once (three matrix products, where ``losses.linear_logprobs`` needs four).  This
requires that the weights of the token losses are known beforehand, and memory for the weight's
gradient, in float32, from the forward pass to the backward pass.

With p the softmax of token t's logits z, label y and factor f,

    loss_t = lse(z) - z_y        d (f loss_t) / d z_j = f (p_j - [j = y])

Shapes: T tokens, H hidden channels, V rows of this rank's weight.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_dasd.losses.linear_logprobs import (
    VocabShard,
    add_product,
    locate,
    placeholder_gradient,
)
from megatron_dasd.losses.slices import slice_length


def linear_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    factors: Tensor,
    shard: VocabShard,
    into_main_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the token losses and their weighted sum.

    Args:
        hidden: ``[T, H]``.
        weight: ``[V, H]``, this rank's part of the output projection.
        labels: ``[T]``.
        factors: ``[T]``, the weight of each loss; 0: the token is ignored.
        shard: this rank's part of the vocabulary.
        into_main_grad: see ``linear_logprobs``.

    Returns:
        The sum, a single number; and -ln p(label) in nats, ``[T]``, which has no gradient.  Both in
        float32 (float64 for float64 input).
    """
    result: tuple[Tensor, Tensor] = _LinearLoss.apply(
        hidden, weight, labels, factors, shard, into_main_grad, torch.is_grad_enabled()
    )
    return result


class _Context(Protocol):
    """What autograd passes to both passes, with the attributes that the forward pass adds."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: Sequence[bool]
    gradients: tuple[Tensor | None, Tensor | None] | None
    """Of the hidden states and of the weight; None after the backward pass."""
    into_main_grad: bool

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        factors: Tensor,
        shard: VocabShard,
        into_main_grad: bool,
        wants_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        factors = factors.to(wide)
        losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_gradients else None
        grad_weight = (
            torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants_gradients else None
        )
        rows = weight[: shard.num_ids]
        # by the whole weight's length: ranks with fewer ids must reduce as many slices
        size = slice_length(len(hidden), len(weight), shard.slice_bytes)
        for tokens, logits in _slices_of_tokens(hidden, rows, size):
            inside, column = locate(labels[tokens, None], shard.first_id, shard.num_ids)
            losses[tokens], sums = _softmax_terms(logits, inside, column, shard)
            if grad_hidden is None or grad_weight is None:
                continue
            own = factors[tokens, None]
            logits.mul_(own / sums.unsqueeze(1))
            if shard.num_ids:
                logits.scatter_add_(1, column, (-own).where(inside, 0.0))
            grad_logits = logits.to(hidden.dtype)
            torch.mm(grad_logits, rows, out=grad_hidden[tokens])
            add_product(grad_weight[: shard.num_ids], grad_logits.t(), hidden[tokens])
        ctx.save_for_backward(weight)
        ctx.gradients, ctx.into_main_grad = (grad_hidden, grad_weight), into_main_grad
        ctx.mark_non_differentiable(losses)
        return (factors * losses.where(factors > 0, 0.0)).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(
        ctx: _Context, grad_total: Tensor, _: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        if ctx.gradients is None:  # they have been scaled in place
            raise RuntimeError("linear_loss: there is no second backward pass")
        grad_hidden, grad_weight = ctx.gradients
        ctx.gradients = None
        given: Tensor | None = None
        if grad_weight is not None and ctx.needs_input_grad[1]:
            grad_weight.mul_(grad_total)
            if ctx.into_main_grad:
                weight.main_grad.add_(grad_weight)  # type: ignore[attr-defined]
                given = placeholder_gradient(weight)
            else:
                given = grad_weight.to(weight.dtype)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(grad_total) if ctx.needs_input_grad[0] else None
        return grad_hidden, given, None, None, None, None, None


def _slices_of_tokens(hidden: Tensor, rows: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield tokens and their logits ``[tokens, rows]``, in memory that is reused."""
    product = hidden.new_empty(size, len(rows))
    wide = product.to(torch.promote_types(hidden.dtype, torch.float32))
    for start in range(0, len(hidden), size):
        tokens = slice(start, min(start + size, len(hidden)))
        num = tokens.stop - start
        torch.mm(hidden[tokens], rows.t(), out=product[:num])
        yield tokens, wide[:num] if wide is product else wide[:num].copy_(product[:num])


def _softmax_terms(
    logits: Tensor, inside: Tensor, column: Tensor, shard: VocabShard
) -> tuple[Tensor, Tensor]:
    """Turn logits into exp(z - highest), in place.

    Returns:
        The losses, and the sums of these terms over the whole vocabulary, both ``[tokens]``.
    """
    divided = shard.group is not None and shard.group.size() > 1
    highest = logits.new_full((len(logits),), float("-inf"))
    if shard.num_ids:  # a rank may hold padding only
        highest = logits.amax(1)
    if divided:
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX, group=shard.group)
    logits.sub_(highest.unsqueeze(1))
    chosen = torch.zeros_like(highest)
    if shard.num_ids:
        chosen = logits.gather(1, column).where(inside, 0.0).squeeze(1)
    sums = torch.stack([logits.exp_().sum(1), chosen])
    if divided:
        torch.distributed.all_reduce(sums, group=shard.group)
    return sums[0].log() - sums[1], sums[0]
