"""The GPU is played by the meta device, whose tensors say that they lie on a GPU.

Megatron's and Transformer Engine's Python then runs forwards and backwards by shapes alone.  What
would read a number on the host raises where it stands, since a meta tensor has none.  Collectives
are noted, with their group and bytes, and not run.
"""

import inspect
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

from tests.gpu_dry import host_reads

META = torch.device("meta")


@dataclass(frozen=True)
class Collective:
    """One that this rank started."""

    name: str
    ranks: tuple[int, ...]
    """Of the group; empty: not a group of ranks, as for a send."""
    num_bytes: int
    """Of what this rank puts in or gets out, whichever is larger."""


collectives: list[Collective] = []


class OnMeta(TorchFunctionMode):
    """Turns every placement on a GPU into one on the meta device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if host_reads.is_read(func, args):
            with torch._C.DisableTorchFunction():
                return host_reads.answer(func, args[0])
        if func is torch.Tensor.cuda:
            moved = args[0].to(META)
            host_reads.note_borders(args[0], moved)
            return moved
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.tensor and isinstance(args[0], list):
            args = (host_reads.numbers(args[0]), *args[1:])
        if kwargs:
            if kwargs.get("pin_memory"):
                kwargs = {**kwargs, "pin_memory": False}
            if "device" in kwargs and _names_gpu(kwargs["device"]):
                kwargs = {**kwargs, "device": META}
        if func is torch.Tensor.to and len(args) > 1 and _names_gpu(args[1]):
            args = (args[0], META, *args[2:])
        elif func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # Megatron groups gradients by the type's name, "torch.cuda.FloatTensor" and so on.
            return f"torch.cuda.{_TYPES[args[0].dtype]}"
        return func(*args, **kwargs)


_TYPES = {
    torch.float32: "FloatTensor",
    torch.bfloat16: "BFloat16Tensor",
    torch.float16: "HalfTensor",
    torch.float64: "DoubleTensor",
    torch.uint8: "ByteTensor",
    torch.int32: "IntTensor",
    torch.int64: "LongTensor",
}


def _names_gpu(device: object) -> bool:
    if isinstance(device, bool):
        return False
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, int) or (isinstance(device, str) and device.startswith("cuda"))


class _Work:
    """All collectives are done at once."""

    def wait(self, *_: object) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


_COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "irecv",
    "isend",
    "recv",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "send",
    "_all_gather_base",
    "_reduce_scatter_base",
)


def install() -> None:
    """In this process, for good; before Megatron is imported."""
    for name in _COLLECTIVES:
        noted = _noted(name, getattr(dist, name))
        setattr(dist, name, noted)
        setattr(dist.distributed_c10d, name, noted)
    for module in (dist, dist.distributed_c10d):
        module.batch_isend_irecv = lambda ops: [_Work() for _ in ops]
        module.P2POp = _Send
    for module in (dist, dist.distributed_c10d):
        module.all_gather_object = _all_alike
        module._coalescing_manager = lambda *_, **__: nullcontext(_Work())
        module.broadcast_object_list = lambda *_, **__: None
        module.get_backend = lambda group=None: "nccl"
    torch.Tensor.is_cuda = property(lambda tensor: True)
    _stay_on_meta_in_backward()
    _stay_on_meta_in_threads()
    OnMeta().__enter__()


def _stay_on_meta_in_backward() -> None:
    """Autograd leaves a mode when it is called under one: recomputation would be without it."""
    engine = torch.autograd.graph._engine_run_backward

    def run(*args: object, **kwargs: object) -> object:
        with OnMeta():
            return engine(*args, **kwargs)

    for module in (torch.autograd.graph, torch.autograd):
        module._engine_run_backward = run


def _stay_on_meta_in_threads() -> None:
    """A mode is a thread's own."""
    run = threading.Thread.run

    def on_meta(self: threading.Thread) -> None:
        with OnMeta():
            run(self)

    threading.Thread.run = on_meta


def _noted(name: str, function: Callable[..., object]) -> Callable[..., object]:
    signature = inspect.signature(function)

    def noted(*args: object, **kwargs: object) -> _Work:
        given = signature.bind(*args, **kwargs).arguments
        collectives.append(Collective(name, _ranks(given.get("group")), _bytes(given.values())))
        return _Work()

    return noted


def _all_alike(object_list: list[object], obj: object, group: object = None) -> None:
    """Every rank has what this one has."""
    object_list[:] = [obj] * len(object_list)


class _Send:
    """In place of ``P2POp``."""

    def __init__(
        self, op: Callable[..., object], tensor: torch.Tensor, *args: object, **kwargs: object
    ) -> None:
        peer = args[0] if args else kwargs.get("peer", kwargs.get("group_peer"))
        ranks = (peer,) if isinstance(peer, int) else ()
        collectives.append(Collective("p2p", ranks, tensor.nbytes))


def _ranks(group: object) -> tuple[int, ...]:
    return tuple(dist.get_process_group_ranks(group))


def _bytes(values: object) -> int:
    sizes = [0]
    for value in values:
        if isinstance(value, torch.Tensor):
            sizes.append(value.nbytes)
        elif isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
            sizes.append(sum(tensor.nbytes for tensor in value))
    return max(sizes)
