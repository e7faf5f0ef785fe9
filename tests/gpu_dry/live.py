"""Bytes of the tensors that live on the GPU, by what they are for.

A dispatch mode sees every tensor that an operation makes, inside autograd's functions too, and
keeps a weak reference to its storage.  A meta storage has the size of the real one.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.gpu_dry.case import Result


class Live(TorchDispatchMode):
    """All storages on the GPU that somebody still holds."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, StorageWeakRef] = {}
        self._bytes: dict[int, int] = {}
        self._total = 0
        self.peak = 0
        """Most bytes at a time, since it was last set."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        for storage in storages([tensor]):
            key = storage._cdata
            if key in self._storages and not self._storages[key].expired():
                self._total += storage.nbytes() - self._bytes[key]
            else:
                self._forget([key])
                self._storages[key] = StorageWeakRef(storage)
                self._total += storage.nbytes()
            self._bytes[key] = storage.nbytes()
        if self._total > self.peak:  # some of it may be gone
            self.peak = max(self.peak, self.total())

    def total(self) -> int:
        """Bytes that live now."""
        self._forget([key for key, storage in self._storages.items() if storage.expired()])
        return self._total

    def _forget(self, keys: Iterable[int]) -> None:
        for key in keys:
            if key in self._storages:
                del self._storages[key]
                self._total -= self._bytes.pop(key)


def storages(tensors: Iterable[Tensor]) -> Iterator[torch.UntypedStorage]:
    """The storages of tensors; those of a quantised one are inside it."""
    for tensor in tensors:
        inner = (
            [x for x in vars(tensor).values() if type(x) is Tensor] if _quantised(tensor) else []
        )
        for one in inner or [tensor]:
            yield one.untyped_storage()


def _quantised(tensor: object) -> bool:
    return type(tensor).__name__.startswith(("Float8", "MXFP8"))


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all storages, each counted once."""
    return sum({s._cdata: s.nbytes() for s in storages(tensors)}.values())


def watch(result: Result, replace: Callable[..., None]) -> Live:
    """Measure a training of one step; the parts go into ``result.memory``."""
    from megatron.core.pipeline_parallel import schedules
    from megatron.training import training

    from megatron_dasd.losses import linear_logprobs
    from megatron_dasd.training import step

    live, memory = Live(), result.memory
    held: dict[str, Any] = {}
    set_up = training.setup_model_and_optimizer

    def noted_set_up(*args: object, **kwargs: object) -> object:
        model, optimizer, scheduler = set_up(*args, **kwargs)
        held.update(model=model, optimizer=optimizer)
        made = optimizer.step

        def noted_step(*step_args: object, **step_kwargs: object) -> object:
            before = num_bytes(_state_of(optimizer))
            done = made(*step_args, **step_kwargs)
            _note_state(memory, model, optimizer)
            # the moments are made by the first step: from the second on they are there before it
            memory["peak"] = live.peak + num_bytes(_state_of(optimizer)) - before
            return done

        optimizer.step = noted_step
        return model, optimizer, scheduler

    def before_forward() -> None:
        if "before" not in held:
            held["before"] = live.total()
            live.peak = 0

    def noted_forward(*args: object, **kwargs: object) -> object:
        before_forward()
        done = forward(*args, **kwargs)
        caches = num_bytes(_caches(held["model"]))
        kept = live.total() - held["before"] - caches
        memory["fp8_caches"] = caches
        memory["activations"] = max(memory.get("activations", 0), kept)
        return done

    forward = schedules.forward_step
    replace(training, "setup_model_and_optimizer", noted_set_up)
    replace(schedules, "forward_step", noted_forward)
    replace(step, "token_losses", _noted_loss(step.token_losses, live, memory))
    backward = _noted_loss(linear_logprobs._LinearLogprobs.backward, live, memory)
    linear_logprobs._LinearLogprobs.backward = staticmethod(backward)
    return live


def _noted_loss(work: Callable[..., Any], live: Live, memory: dict[str, int]) -> Callable[..., Any]:
    @wraps(work)
    def noted(*args: object, **kwargs: object) -> object:
        before, peak = live.total(), live.peak
        live.peak = 0
        done = work(*args, **kwargs)
        memory["loss"] = max(memory.get("loss", 0), live.peak - before)
        live.peak = max(peak, live.peak)
        return done

    return noted


def _note_state(memory: dict[str, int], model: Any, optimizer: Any) -> None:
    """Weights, accumulated gradients, and the optimizer's own tensors."""
    parameters = [p for chunk in model for p in chunk.parameters()]
    buffers = [b for c in model for b in [*c.buffers, *c.expert_parallel_buffers]]
    memory["weights"] = num_bytes(parameters)
    memory["gradients"] = num_bytes(b.grad_data for b in buffers)
    of_model = {s._cdata for s in storages(parameters)}
    own = (x for x in _state_of(optimizer) if x.untyped_storage()._cdata not in of_model)
    memory["optimizer"] = num_bytes(own)


def _state_of(optimizer: Any) -> Iterator[Tensor]:
    """Its own copies of the weights, which may be views of the model's, and its moments."""
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in one.optimizer.param_groups:
            yield from group["params"]
        for values in one.optimizer.state.values():
            yield from (x for x in values.values() if isinstance(x, Tensor) and x.dim())


def _caches(model: Any) -> Iterator[Tensor]:
    """Transformer Engine's weights in FP8, kept from row to row of a step."""
    for chunk in model:
        for module in chunk.modules():
            for cached in getattr(module, "_fp8_workspaces", {}).values():
                yield from (x for x in vars(cached).values() if type(x) is Tensor)
