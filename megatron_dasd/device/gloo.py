"""What Megatron needs of NCCL and gloo lacks: exchanges of parts of unequal length.

Routed experts need them, since each gets as many tokens as chose it.  Part of the CPU adapter.
"""

import inspect

import torch.distributed as dist
from torch import Tensor

_all_gather, _reduce_scatter = dist.all_gather, dist.reduce_scatter


def install() -> None:
    """Put the functions below in the place of those that they stand for."""
    _give_split_sizes_as_numbers()
    dist.all_gather = all_gather  # type: ignore[assignment]
    dist.reduce_scatter = reduce_scatter  # type: ignore[assignment]


def all_gather(
    tensor_list: list[Tensor],
    tensor: Tensor,
    group: dist.ProcessGroup | None = None,
    async_op: bool = False,
) -> dist.Work | None:
    """``torch.distributed.all_gather``, also for tensors that differ in their first dimension."""
    if _even(tensor_list):
        work: dist.Work | None = _all_gather(tensor_list, tensor, group=group, async_op=async_op)
        return work
    tensor_list[dist.get_rank(group)].copy_(tensor)
    for rank, part in enumerate(tensor_list):
        dist.broadcast(part, group=group, group_src=rank)
    return None


def reduce_scatter(
    output: Tensor,
    input_list: list[Tensor],
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
    group: dist.ProcessGroup | None = None,
    async_op: bool = False,
) -> dist.Work | None:
    """``torch.distributed.reduce_scatter``, also for tensors that differ in their first dimension.

    Args:
        output: this rank's part, summed over the ranks.
        input_list: for each rank its part, before the sum.
    """
    if _even(input_list):
        work: dist.Work | None = _reduce_scatter(
            output, input_list, op=op, group=group, async_op=async_op
        )
        return work
    own = dist.get_rank(group)
    for rank, part in enumerate(input_list):
        # a copy: gloo uses the tensor of every rank as its scratch
        summed = part.clone()
        dist.reduce(summed, op=op, group=group, group_dst=rank)
        if rank == own:
            output.copy_(summed)
    return None


def _even(tensors: list[Tensor]) -> bool:
    return len({tensor.shape for tensor in tensors}) == 1


def _give_split_sizes_as_numbers() -> None:
    """Megatron turns the token counts of an all-to-all into numbers as it copies them off a GPU.

    Without one they would stay tensors, which the all-to-all does not take.
    """
    from megatron.core.transformer.moe import token_dispatcher

    known = ["tensor", "as_numpy", "record_stream"]
    if list(inspect.signature(token_dispatcher.maybe_move_tensor_to_cpu).parameters) != known:
        raise RuntimeError("megatron's maybe_move_tensor_to_cpu has another signature than known")

    def on_cpu(tensor: object, as_numpy: bool = False, record_stream: bool = False) -> object:
        return tensor.numpy() if as_numpy and isinstance(tensor, Tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = on_cpu
