"""A training step with every live tensor counted by what it is for, on one rank."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megatron_dasd.device.launch import run_program
from megatron_dasd.models.program import parse_argv


class Kept:
    """Bytes of the storages that autograd keeps, each counted once, while any tensor needs it."""

    def __init__(self, parameters: set[int]) -> None:
        self._parameters = parameters
        self._holders: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self.peak = 0

    def pack(self, tensor: Any) -> "Held | Any":
        """Take note of a tensor that is kept."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self._parameters or not storage.nbytes():
            return tensor
        self._holders[place] = self._holders.get(place, 0) + 1
        self._bytes[place] = storage.nbytes()
        self.peak = max(self.peak, sum(self._bytes.values()))
        return Held(tensor, place, self)

    def unpack(self, held: "Held | Any") -> Any:
        """Give it back."""
        return held.tensor if isinstance(held, Held) else held

    def free(self, place: int) -> None:
        """One holder fewer."""
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place], self._bytes[place]


class Held:
    """A kept tensor, until autograd lets go of it."""

    def __init__(self, tensor: Any, place: int, kept: Kept) -> None:
        self.tensor, self._place, self._kept = tensor, place, kept

    def __del__(self) -> None:
        self._kept.free(self._place)


def main(payload: dict[str, Any]) -> None:
    """Write bytes of weights, gradients, optimizer and activations."""
    args = parse_argv(payload["argv"])
    import torch
    from megatron.core import mpu
    from megatron.core.enums import ModelType
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.training.argument_utils import pretrain_cfg_container_from_args
    from megatron.training.initialize import initialize_megatron
    from megatron.training.training import setup_model_and_optimizer

    from megatron_dasd.data.rows import packed_row
    from megatron_dasd.device import adamw
    from megatron_dasd.models.packed import for_rank, to_batch
    from megatron_dasd.models.provider import model_provider
    from megatron_dasd.training.job import LossSettings
    from megatron_dasd.training.loss_check import LossCheck
    from megatron_dasd.training.step import forward_step

    adamw.mend()
    initialize_megatron()
    config = pretrain_cfg_container_from_args(args)
    model, optimizer, _ = setup_model_and_optimizer(
        ModelType.encoder_or_decoder, model_provider, cfg_container=config
    )
    documents = [
        {"tokens": np.arange(n) % 100, "loss_mask": np.ones(n)} for n in payload["lengths"]
    ]
    row = packed_row(documents, args.seq_length, payload["align"]) | {"row_number": np.array([0])}
    place = mpu.get_context_parallel_rank(), mpu.get_context_parallel_world_size()
    batch = to_batch(for_rank(row, *place))
    own = {p.untyped_storage().data_ptr() for chunk in model for p in chunk.parameters()}
    kept = Kept(own)
    step = partial(forward_step, groups={}, settings=LossSettings(), check=LossCheck())
    for chunk in model:
        chunk.zero_grad_buffer()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=[iter(lambda: batch, None)] * len(model)
            if len(model) > 1
            else iter(lambda: batch, None),
            model=model,
            num_microbatches=payload["num_micro_batches"],
            seq_length=args.seq_length,
            micro_batch_size=1,
            forward_only=False,
        )
    optimizer.step()
    found = {
        "stage": mpu.get_pipeline_model_parallel_rank(),
        "weights": sum(p.numel() * p.element_size() for chunk in model for p in chunk.parameters()),
        "gradients": sum(
            buffer.grad_data.numel() * buffer.grad_data.element_size()
            for chunk in model
            for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]
        ),
        "optimizer": _optimizer_bytes(optimizer, own),
        "activations": kept.peak,
    }
    out = Path(payload["out"]) / f"{torch.distributed.get_rank()}.json"
    out.write_text(json.dumps(found))


def _optimizer_bytes(optimizer: Any, parameters: set[int]) -> int:
    """Of its state and of its own copies of the weights."""
    import torch

    storages: dict[int, int] = {}
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        inner = one.optimizer
        copies = [p for group in inner.param_groups for p in group["params"]]
        state = [x for values in inner.state.values() for x in values.values()]
        for tensor in [*copies, *(x for x in state if isinstance(x, torch.Tensor))]:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


if __name__ == "__main__":
    run_program(main)
