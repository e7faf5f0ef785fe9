"""Numbers that the host reads off the GPU: each waits for it, so each is named here.

A read at another place ends the program with :class:`HostRead`.
"""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class HostRead(Exception):
    """A number was read on the host at a place that is not named."""


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")


def _ones(tensor: Tensor) -> Tensor:
    return torch.ones(tensor.shape, dtype=tensor.dtype, device="cpu")


def _balanced(tensor: Tensor) -> Tensor:
    """Counts of tokens as an all-to-all dispatcher reads them, under balanced routing."""
    frame = _caller(_DISPATCH)
    layer = frame.f_locals["self"]
    sent = layer.num_out_tokens  # copies of this rank's tokens, one for each expert of each
    ranks = layer.tp_size * layer.ep_size
    if tensor is layer.input_splits or tensor is layer.output_splits:
        count = sent // layer.ep_size
    elif tensor is layer.output_splits_tp:
        count = sent
    elif tensor is getattr(layer, "num_global_tokens_per_local_expert", None):
        count = sent // layer.num_experts
    else:
        count = sent // layer.num_experts * ranks
    return torch.full(tensor.shape, count, dtype=tensor.dtype, device="cpu")


_newest: list[Tensor] = []
"""The borders of the documents and of their slots, in the newest row that went to the GPU."""
_rows = WeakTensorKeyDictionary()
"""By the borders of the slots on the GPU: both borders of the row.  Rows go to the GPU ahead of
their step, so the newest row is not the one in hand."""


def note_borders(tensor: Tensor, moved: Tensor) -> None:
    """Remember a tensor that went to the GPU, if it is a row's borders (``data.rows``)."""
    if tensor.dtype == torch.int32 and tensor.device.type == "cpu" and tensor.dim() == 1:
        _newest.append(tensor)
        del _newest[:-2]
        _rows[moved] = tuple(_newest)


def _caller(name: str) -> FrameType:
    """The innermost call of a function of that name."""
    frame = sys._getframe(1)
    while frame.f_code.co_name != name:
        assert frame.f_back is not None
        frame = frame.f_back
    return frame


def _documents(tensor: Tensor) -> Tensor:
    """Lengths of the documents, or borders of their slots."""
    documents, slots = _rows[_caller("_on_host").f_locals["params"].cu_seqlens_q_padded]
    return documents.diff() if len(tensor) < len(slots) else slots


def _slots(tensor: Tensor) -> Tensor:
    """Each slot's positions on this context-parallel rank, or those of the whole row."""
    frame = _caller("_apply_rotary_pos_emb_thd")
    slots: Tensor = _rows[frame.f_locals["cu_seqlens"]][1]
    if tensor.dim() == 0:  # where the row ends, or where its document i begins
        return slots[frame.f_locals["i"] if "local_freqs" in frame.f_locals else -1]
    shares: Tensor = slots.diff() // frame.f_locals["cp_size"]
    return shares


def _whole_row(tensor: Tensor) -> Tensor:
    """Where a gated delta net's row ends; that no slot is left over among the ranks."""
    if tensor.dtype == torch.bool:
        return _zeros(tensor)
    return torch.tensor(_caller("_resolve_cu_seqlens").f_locals["total_seq_len"])


_DISPATCH = "_maybe_dtoh_and_synchronize"
Answer = Callable[[Tensor], Tensor]

_AT_START: dict[str, Answer] = {
    "megatron/training/training.py:pretrain": _ones,
    "megatron/core/timers.py:_get_global_min_max_time": _ones,
    "megatron/training/checkpointing.py:read_metadata": _zeros,
    "megatron/training/training.py:build_train_valid_test_data_loaders": _ones,
}
IN_A_STEP: dict[str, Answer] = {
    # Whether any rank wants the step done again.
    "megatron/core/rerun_state_machine.py:_reduce_any": _zeros,
    # Whether any rank was asked to stop.
    "megatron/training/dist_signal_handler.py:all_gather_item": _zeros,
    # How many tokens go to which rank and expert.
    "transformer/moe/moe_utils.py:maybe_move_tensor_to_cpu": _balanced,
    # Where the row of a gated delta net ends; whether queries and keys have the same borders.
    "ssm/gated_delta_net/common.py:_resolve_cu_seqlens": _whole_row,
    "ssm/gated_delta_net/gdn.py:forward": _ones,
    # Clipping: whether the norm is a number, and the norm for the log.
    "core/optimizer/optimizer.py:has_grad_norm_group": _ones,
    "training/utils/common_utils.py:logical_and_across_model_parallel_group": _ones,
    "training/utils/common_utils.py:reduce_max_stat_across_model_parallel_group": _ones,
    # The log: losses, and the loss scale.
    "megatron/training/training.py:train": _ones,
    "megatron/training/training.py:training_log": _ones,
    "megatron_dasd/training/megatron_log.py:drop_absent": _ones,
    "megatron_dasd/training/megatron_log.py:_named": _ones,
    "megatron_dasd/training/megatron_log.py:_note": _ones,
    # Whether all losses of the step are numbers, and the gradients of each bucket.
    "megatron_dasd/training/loss_check.py:add": _ones,
    # A row's log-probs, and a text's logits.
    "megatron_dasd/student/scoring_program.py:_token_losses": _ones,
    "megatron_dasd/checkpoint/verify_program.py:_megatron_logits": _zeros,
    # The likeliest tokens of some positions, and their log-probs.
    "megatron_dasd/teacher/top_model.py:top_of_document": _zeros,
    # Whether a text for transformers is one document.
    "site-packages/transformers/masking_utils.py:find_packed_sequence_indices": _ones,
}
_WITHOUT_ENGINE: dict[str, Answer] = {
    "megatron_dasd/models/layers.py:_on_host": _documents,
    "common/embeddings/rope_utils.py:_apply_rotary_pos_emb_thd": _slots,
    # Clipping by torch's own norm, once for each parameter.
    "megatron/core/utils.py:local_multi_tensor_l2_norm": _ones,
    "core/optimizer/clip_grads.py:get_grad_norm_fp32": _ones,
}
_AT_A_SAVE: dict[str, Answer] = {
    # The optimizer's whole state, gathered: see the interim saves in docs/gpu.md.
    "core/optimizer/distrib_optimizer.py:get_parameter_state_dp_zero": _zeros,
    # Whether an interim save has been written on all ranks.
    "dist_checkpointing/strategies/async_utils.py:is_current_async_call_done": _ones,
    "dist_checkpointing/strategies/async_utils.py:maybe_finalize_async_calls": _zeros,
}
NAMED = _AT_START | IN_A_STEP | _WITHOUT_ENGINE | _AT_A_SAVE
"""Place (file and function) -> what is read there, as a tensor on the host."""

reads: Counter[str] = Counter()
"""How often, by place."""
_READING = {
    torch.Tensor.item: Tensor.item,
    torch.Tensor.tolist: Tensor.tolist,
    torch.Tensor.cpu: Tensor.clone,
    torch.Tensor.numpy: Tensor.numpy,
    torch.Tensor.__bool__: Tensor.__bool__,
    torch.Tensor.__int__: Tensor.__int__,
    torch.Tensor.__float__: Tensor.__float__,
    torch.Tensor.__index__: Tensor.__index__,
    torch.equal: lambda value: bool(value.all()),
}


def is_read(func: object, args: tuple[object, ...]) -> bool:
    """Whether a function would read a tensor on the host."""
    if not args or not isinstance(args[0], Tensor) or args[0].device.type != "meta":
        return False
    if func is Tensor.to:
        target = args[1] if len(args) > 1 else None
        return target == "cpu" or target == torch.device("cpu")
    return func in _READING


def answer(func: object, tensor: Tensor) -> object:
    """What the host reads.

    Raises:
        HostRead: nobody named this place.
    """
    where = _place()
    if where not in NAMED:
        raise HostRead(f"{where} reads a tensor of shape {list(tensor.shape)} on the host")
    reads[where] += 1
    value = NAMED[where](tensor)
    return value if func is Tensor.to else _READING[func](value)


def numbers(values: list[object]) -> list[object]:
    """A list for ``torch.tensor``, which reads what tensors there are in it."""
    found: list[object] = []
    for value in values:
        if isinstance(value, list):
            found.append(numbers(value))
        else:
            read = is_read(Tensor.item, (value,))
            found.append(answer(Tensor.item, value) if read else value)
    return found


def _place() -> str:
    frame = sys._getframe(1)
    while True:
        name = frame.f_code.co_filename
        if "/torch/" not in name and "/tests/gpu_dry/" not in name:
            short = "/".join(name.split("/")[-3:])
            return f"{short}:{frame.f_code.co_name}"
        assert frame.f_back is not None
        frame = frame.f_back
