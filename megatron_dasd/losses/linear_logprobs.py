"""Log-probabilities of chosen tokens from hidden states, without ever holding all logits.

The output projection and the softmax are computed together, one slice of the vocabulary at a time.
The forward pass keeps one logit sum per token, and the backward pass computes each slice's logits
once more (four matrix products in all, where keeping the logits costs three).  Every loss here is a
function of the result, a few numbers per token: cross-entropy of the label's log-probability, a
distillation divergence of those of the teacher's likeliest tokens and of the rest.

With z the logits of a token, ``ln p_i = z_i - lse`` and R the tokens that are not chosen,

    d ln p_i / d z_j    = [i = j] - p_j
    d ln p(R) / d z_j   = [j in R] p_j / p(R) - p_j

Under tensor parallelism each rank holds the weights of a range of token ids; the maximum, the sums
and the chosen logits are reduced over the ranks.  The gradient of the hidden states is this rank's
share; ``losses.output_layer`` arranges its reduction over the ranks.

Shapes: T tokens, H hidden channels, V rows of this rank's weight, K chosen ids a token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_dasd.losses.slices import CPU_BYTES, slice_length


@dataclass(frozen=True)
class VocabShard:
    """The token ids of this rank's weight rows."""

    first_id: int
    """Id of the first row."""
    num_ids: int
    """Rows with a token id; the rows after them pad the matrix and are ignored."""
    group: torch.distributed.ProcessGroup | None = None
    """Ranks over which the vocabulary is divided; None: this rank has all of it."""
    slice_bytes: int = CPU_BYTES
    """Most bytes of float32 logits to hold at a time; the same on all ranks."""


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    shard: VocabShard,
    into_main_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the log-probabilities of chosen tokens, and of all other tokens together.

    Args:
        hidden: ``[T, H]``.
        weight: ``[V, H]``, this rank's part of the output projection.
        token_ids: ``[T, K]``, distinct within a row; -1 stands for no token and may be repeated.
        shard: this rank's part of the vocabulary.
        into_main_grad: add the weight's gradient to ``weight.main_grad``, as Megatron's linear
            layers do under gradient accumulation fusion, instead of returning it.

    Returns:
        ln p of each chosen token, ``[T, K]``, and of the rest of the vocabulary, ``[T]``: natural
        logarithms, in float32 (float64 for float64 input), -inf for an id of -1.
    """
    result: tuple[Tensor, Tensor] = _LinearLogprobs.apply(
        hidden, weight, token_ids, shard, into_main_grad
    )
    return result


class _Context(Protocol):
    """What autograd passes to both passes, with the attributes that the forward pass adds."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: Sequence[bool]
    shard: VocabShard
    into_main_grad: bool

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        weight: Tensor,
        token_ids: Tensor,
        shard: VocabShard,
        into_main_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        highest, rest, chosen = _over_own_ids(hidden, weight, token_ids, shard)
        highest, rest, chosen = _over_ranks(highest, rest, chosen, shard.group)
        present = token_ids >= 0
        of_chosen = (chosen - highest.unsqueeze(1)).exp().where(present, 0.0).sum(1)
        lse = highest + (rest + of_chosen).log()
        logprobs = (chosen - lse.unsqueeze(1)).where(present, float("-inf"))
        log_rest = highest + rest.log() - lse
        ctx.save_for_backward(hidden, weight, token_ids, lse, logprobs, log_rest)
        ctx.shard, ctx.into_main_grad = shard, into_main_grad
        ctx.set_materialize_grads(False)
        return logprobs, log_rest

    @staticmethod
    @once_differentiable
    def backward(
        ctx: _Context, grad_logprobs: Tensor | None, grad_rest: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, token_ids, lse, logprobs, log_rest = ctx.saved_tensors
        grads = torch.zeros_like(logprobs) if grad_logprobs is None else grad_logprobs
        grads = grads.where(token_ids >= 0, 0.0)
        # gradient of logit j: p_j x common for the chosen, p_j x others for the rest
        common = -grads.sum(1)
        others = common
        if grad_rest is not None:
            common = common - grad_rest
            others = common + (grad_rest * (-log_rest).exp()).where(grad_rest != 0, 0.0)
        at_chosen = grads + logprobs.exp() * common.unsqueeze(1)
        grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if ctx.needs_input_grad[0] else None
        sink = _WeightGradient(weight, ctx.shard, ctx.into_main_grad, ctx.needs_input_grad[1])
        slices = _Slices(hidden, ctx.shard)
        for start, end in slices:
            inside, column = locate(token_ids, ctx.shard.first_id + start, end - start)
            logits = slices.logits(weight[start:end]).sub_(lse.unsqueeze(1))
            _hide(logits, inside, column).exp_().mul_(others.unsqueeze(1))
            logits.scatter_add_(1, column, at_chosen.where(inside, 0.0))
            grad_logits = slices.narrowed(logits)
            if grad_hidden is not None:
                add_product(grad_hidden, grad_logits, weight[start:end])
            sink.add(start, end, grad_logits, hidden)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, sink.result(), None, None, None


class _Slices:
    """Computes the logits slice by slice over the vocabulary, in memory that is reused.

    Iterating gives the first row of each slice and the row after its last.
    """

    def __init__(self, hidden: Tensor, shard: VocabShard) -> None:
        self._hidden, self._num_ids = hidden, shard.num_ids
        self._width = slice_length(shard.num_ids, len(hidden), shard.slice_bytes)
        self._product = hidden.new_empty(len(hidden) * self._width)
        # float32 at least, as Megatron's loss takes them; the same memory if they are that anyway
        self._wide = self._product.to(torch.promote_types(hidden.dtype, torch.float32))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self._num_ids, self._width):
            yield start, min(start + self._width, self._num_ids)

    def logits(self, rows: Tensor) -> Tensor:
        """Compute logits ``[T, rows]``; the next call overwrites them."""
        product, wide = (
            buffer[: len(self._hidden) * len(rows)].view(len(self._hidden), len(rows))
            for buffer in (self._product, self._wide)
        )
        torch.mm(self._hidden, rows.t(), out=product)
        return wide if wide.dtype == product.dtype else wide.copy_(product)

    def narrowed(self, logits: Tensor) -> Tensor:
        """What was made of the logits, in the dtype of the hidden states."""
        if logits.dtype == self._product.dtype:
            return logits
        return self._product[: logits.numel()].view_as(logits).copy_(logits)


class _WeightGradient:
    """Where the weight's gradient goes: a tensor of its own, or ``main_grad``."""

    def __init__(
        self, weight: Tensor, shard: VocabShard, into_main_grad: bool, needed: bool
    ) -> None:
        self._weight, self._needed, self._fused = weight, needed, into_main_grad and needed
        self._grad: Tensor | None = None
        if needed and not into_main_grad:
            self._grad = torch.empty_like(weight)
            self._grad[shard.num_ids :].zero_()

    def add(self, start: int, end: int, grad_logits: Tensor, hidden: Tensor) -> None:
        if self._fused:
            add_product(self._weight.main_grad[start:end], grad_logits.t(), hidden)  # type: ignore[attr-defined]
        elif self._grad is not None:
            torch.mm(grad_logits.t(), hidden, out=self._grad[start:end])

    def result(self) -> Tensor | None:
        """The gradient to return to autograd for the weight."""
        return placeholder_gradient(self._weight) if self._fused else self._grad


def placeholder_gradient(weight: Tensor) -> Tensor | None:
    """The gradient to return to autograd for a weight whose gradient was added to ``main_grad``."""
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    # Megatron's hooks require a gradient.  They read it only if the weight is also an embedding's
    # (zero_out_wgrad), to whose own gradient it is added.
    weight.grad_added_to_main_grad = True
    zero = getattr(weight, "zero_out_wgrad", False)
    return torch.zeros_like(weight) if zero else torch.empty_like(weight)


def _over_own_ids(
    hidden: Tensor, weight: Tensor, token_ids: Tensor, shard: VocabShard
) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce this rank's logits.

    Returns:
        The highest logit, the sum of exp(z - highest) over the tokens that are not chosen, and the
        logits of the chosen tokens (0 where another rank has them).
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    highest = torch.full((len(hidden),), float("-inf"), dtype=dtype, device=hidden.device)
    rest = torch.zeros_like(highest)
    chosen = torch.zeros(token_ids.shape, dtype=dtype, device=hidden.device)
    slices = _Slices(hidden, shard)
    for start, end in slices:
        inside, column = locate(token_ids, shard.first_id + start, end - start)
        logits = slices.logits(weight[start:end])
        before, highest = highest, torch.maximum(highest, logits.amax(1))
        chosen += logits.gather(1, column).where(inside, 0.0)
        _hide(logits, inside, column)
        terms = logits.sub_(highest.unsqueeze(1)).exp_()
        rest = rest * (before - highest).exp() + terms.sum(1)
    return highest, rest, chosen


def _over_ranks(
    highest: Tensor, rest: Tensor, chosen: Tensor, group: torch.distributed.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Combine the results of :func:`_over_own_ids` over the ranks."""
    if group is None or group.size() == 1:
        return highest, rest, chosen
    overall = highest.clone()
    torch.distributed.all_reduce(overall, torch.distributed.ReduceOp.MAX, group=group)
    sums = torch.cat([(rest * (highest - overall).exp()).unsqueeze(1), chosen], dim=1)
    torch.distributed.all_reduce(sums, group=group)
    return overall, sums[:, 0], sums[:, 1:]


def locate(token_ids: Tensor, first_id: int, width: int) -> tuple[Tensor, Tensor]:
    """Find which ids lie in a slice, and their columns there (column 0 for the others)."""
    column = token_ids - first_id
    inside = (column >= 0) & (column < width) & (token_ids >= 0)
    return inside, column.where(inside, 0)


def _hide(logits: Tensor, inside: Tensor, column: Tensor) -> Tensor:
    """Remove the chosen tokens from a sum of exponentials, in place.

    Adds -inf to them, and 0 to column 0 for all others: no shape depends on the data, so the CPU
    does not have to wait for the GPU.
    """
    nothing = torch.zeros(inside.shape, dtype=logits.dtype, device=logits.device)
    return logits.scatter_add_(1, column, nothing.masked_fill_(inside, float("-inf")))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, product and sum in the dtype of ``total``."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif left.device.type == "cpu":  # has no product of one type from factors of another
        total.addmm_(left.to(total.dtype), right.to(total.dtype))
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
