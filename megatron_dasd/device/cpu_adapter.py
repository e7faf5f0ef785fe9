"""Lets stock Megatron run on the CPU over gloo.  Loaded only on machines without a GPU.

Megatron takes from ``torch.cuda`` streams, events, random states and device facts, and places
tensors with ``device="cuda"``.  With :func:`install` those calls are answered for the CPU: queries
by a table of functions, placements by a ``TorchFunctionMode``.  Nothing of Megatron is copied.
"""

import contextlib
import ctypes
import inspect
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import cache, partial
from multiprocessing.managers import SyncManager
from queue import Queue
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch.overrides import TorchFunctionMode

from megatron_dasd.device import gloo

_PR_SET_PDEATHSIG = 1
_CPU = torch.device("cpu")
_installed: list["_PlaceOnCpu"] = []


def needed() -> bool:
    """Whether this process has no GPU, and so needs the adapter."""
    return bool(_installed) or not torch.cuda.is_available()


def install() -> None:
    """Make ``torch.cuda`` answer for the CPU, in this process, for good."""
    if _installed:
        return
    # Compiling tiny fused kernels for the CPU costs minutes and gains nothing here.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    _answer_queries()
    _fork_checkpoint_queue()
    _fork_checkpoint_writers()
    gloo.install()
    mode = _PlaceOnCpu()
    mode.__enter__()  # type: ignore[no-untyped-call]
    _installed.append(mode)


class _Stream:
    """All work on the CPU is done when the call returns: waiting is free."""

    device = _CPU

    def __init__(self, *_: object, **__: object) -> None: ...

    def wait_stream(self, _: object) -> None: ...

    def wait_event(self, _: object) -> None: ...

    def synchronize(self) -> None: ...

    def record_event(self, *_: object) -> "_Event":
        return _Event()


class _Event:
    def __init__(self, *_: object, **__: object) -> None: ...

    def record(self, *_: object) -> None: ...

    def wait(self, *_: object) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


def _returning[T](value: T) -> Callable[..., T]:
    """A function of its own for every answer: dynamo keeps a rule per function object."""
    return lambda *_, **__: value


def _answer_queries() -> None:
    cuda, generator, stream = torch.cuda, torch.default_generator, _Stream()
    memory = psutil.virtual_memory()
    random_state: dict[str, object] = {
        "get_rng_state": lambda device="cuda": generator.get_state(),
        "set_rng_state": lambda state, device="cuda": generator.set_state(state),
        "manual_seed": lambda seed: generator.manual_seed(seed),
    }
    answers: dict[str, object] = random_state | {
        "is_available": _returning(True),
        "is_initialized": _returning(False),
        "is_current_stream_capturing": _returning(False),
        # Model parallelism is set up only where devices are counted; the count itself is not used.
        "device_count": _returning(1),
        "current_device": _returning(_CPU),
        "set_device": _returning(None),
        "synchronize": _returning(None),
        "empty_cache": _returning(None),
        "reset_peak_memory_stats": _returning(None),
        "set_stream": _returning(None),
        "Stream": _Stream,
        "Event": _Event,
        "current_stream": _returning(stream),
        "default_stream": _returning(stream),
        "stream": lambda _: contextlib.nullcontext(),
        "memory_allocated": _returning(0),
        "max_memory_allocated": _returning(0),
        "memory_reserved": _returning(0),
        "max_memory_reserved": _returning(0),
        "memory_stats": lambda *_, **__: {},
        "mem_get_info": _returning((memory.available, memory.total)),
        "get_device_capability": _returning((0, 0)),
        "get_device_name": _returning("cpu"),
        "get_device_properties": _returning(
            SimpleNamespace(
                name="cpu", major=0, minor=0, total_memory=memory.total, multi_processor_count=1
            )
        ),
    }
    for name, answer in answers.items():
        setattr(cuda, name, answer)
    for name, answer in random_state.items():
        setattr(cuda.random, name, answer)
    # torch's own optimizers check this, and would start CUDA if it were true.
    torch.accelerator.is_available = _returning(False)
    cuda.nvtx.range_push = _returning(None)
    cuda.nvtx.range_pop = _returning(None)
    torch.Tensor.record_stream = _returning(None)  # type: ignore[method-assign]


def _fork_checkpoint_queue() -> None:
    """The first save starts a queue's server in a fresh interpreter, for CUDA: 4 s of imports.

    Without CUDA a fork does.  The server ends with its rank, also when that is killed.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if list(inspect.signature(filesystem_async.get_write_results_queue).parameters) != ["mp_mode"]:
        raise RuntimeError("megatron's get_write_results_queue has another signature than known")

    @cache
    def forked_queue() -> "Queue[object]":
        manager = SyncManager(ctx=multiprocessing.get_context("fork"))
        manager.start(initializer=_die_with_parent)
        return manager.Queue()

    filesystem_async.get_write_results_queue = lambda mp_mode="fork": forked_queue()


def _fork_checkpoint_writers() -> None:
    """Let a fork of the rank write what is saved beside the training.

    Megatron's persistent process is for CUDA: it takes copies of tensors off the GPU.  On the CPU
    there would be no copy, and training would change what is being written.  A fork has the memory
    as it was, without a copy and without imports.
    """
    from megatron.core.dist_checkpointing.strategies import async_utils

    queue = async_utils.AsyncCallsQueue
    if list(inspect.signature(queue._get_async_caller).parameters) != ["self"]:
        raise RuntimeError("megatron's AsyncCallsQueue has other methods than known")

    class ForkedCaller(async_utils.TemporalAsyncCaller):  # type: ignore[misc]
        def schedule_async_call(self, async_req: Any) -> None:
            if async_req.async_fn is not None:
                async_req = async_req._replace(async_fn=partial(_write, async_req.async_fn))
            super().schedule_async_call(async_req)

    queue._get_async_caller = lambda self: ForkedCaller()
    queue.warmup_persistent_caller = _returning(None)


def _write(write: Callable[..., None], *args: object, **kwargs: object) -> None:
    """Body of a fork that writes a checkpoint; it ends with its rank, also when that is killed."""
    _die_with_parent()
    write(*args, **kwargs)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _names_cuda(device: object) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


class _PlaceOnCpu(TorchFunctionMode):
    """Turns every placement on a GPU into one on the CPU, and pinned memory into plain memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda or func is torch.Tensor.pin_memory:
            return args[0]
        if kwargs:
            if kwargs.get("pin_memory"):
                kwargs = {**kwargs, "pin_memory": False}
            if _names_cuda(kwargs.get("device")):
                kwargs = {**kwargs, "device": _CPU}
        if func is torch.Tensor.to and len(args) > 1 and _names_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        elif func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # Megatron groups gradients by the type's name, "torch.cuda.FloatTensor" and so on.
            return func(*args).replace("torch.", "torch.cuda.")
        return func(*args, **kwargs)
