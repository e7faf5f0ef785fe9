"""``torch.cuda`` answers as one of a node's eight H100s; nothing is computed there."""

import contextlib
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import torch

MEMORY = 80 * 2**30
CAPABILITY = (9, 0)
waits: Counter[str] = Counter()
"""How often the host waited for the GPU, by the call that waits."""


class _Stream:
    device = torch.device("meta")
    cuda_stream = 0
    device_index = 0

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None: ...

    def wait_stream(self, _: object) -> None: ...

    def wait_event(self, _: object) -> None: ...

    def synchronize(self) -> None:
        waits["stream"] += 1

    def record_event(self, *_: object) -> "_Event":
        return _Event()

    def query(self) -> bool:
        return True


class _Event:
    def __init__(self, *_: object, **__: object) -> None: ...

    def record(self, *_: object) -> None: ...

    def wait(self, *_: object) -> None: ...

    def synchronize(self) -> None:
        waits["event"] += 1

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: object) -> float:
        return 1.0


class _Generator:
    def set_state(self, state: object) -> None: ...

    def get_state(self) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def clone_state(self) -> "_Generator":
        return self

    def manual_seed(self, seed: int) -> "_Generator":
        return self

    graphsafe_set_state = set_state

    def graphsafe_get_state(self) -> "_Generator":
        return self


class _Generators(tuple[_Generator, ...]):
    """Indexed by a device that is meta here, not by a number."""

    def __getitem__(self, index: object) -> _Generator:
        return _Generator()


def _returning(value: object) -> Callable[..., object]:
    return lambda *_, **__: value


def _wait(name: str) -> Callable[..., None]:
    def wait(*_: object, **__: object) -> None:
        waits[name] += 1

    return wait


def install() -> None:
    """Answer in this process, for good."""
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        major=CAPABILITY[0],
        minor=CAPABILITY[1],
        total_memory=MEMORY,
        multi_processor_count=132,
        L2_cache_size=50 * 2**20,
        warp_size=32,
        max_threads_per_multi_processor=2048,
        shared_memory_per_multiprocessor=233472,
        gcnArchName="",
        is_integrated=0,
    )
    answers: dict[str, object] = {
        "is_available": _returning(True),
        "is_initialized": _returning(True),
        "is_current_stream_capturing": _returning(False),
        "device_count": _returning(8),
        "current_device": _returning(torch.device("meta")),
        "set_device": _returning(None),
        "get_device_properties": _returning(properties),
        "get_device_capability": _returning(CAPABILITY),
        "get_device_name": _returning(properties.name),
        "synchronize": _wait("device"),
        "empty_cache": _returning(None),
        "ipc_collect": _returning(None),
        "reset_peak_memory_stats": _returning(None),
        "memory_allocated": _returning(0),
        "max_memory_allocated": _returning(0),
        "memory_reserved": _returning(0),
        "max_memory_reserved": _returning(0),
        "memory_stats": lambda *_, **__: {},
        "mem_get_info": _returning((MEMORY, MEMORY)),
        "_lazy_init": _returning(None),
        "init": _returning(None),
        "Stream": _Stream,
        "Event": _Event,
        "current_stream": _returning(_Stream()),
        "default_stream": _returning(_Stream()),
        "set_stream": _returning(None),
        "stream": lambda _: contextlib.nullcontext(),
        "manual_seed": _returning(None),
        "manual_seed_all": _returning(None),
        "get_rng_state": lambda *_, **__: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": _returning(None),
        "default_generators": _Generators(_Generator() for _ in range(8)),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    for name in ("get_rng_state", "set_rng_state", "manual_seed", "manual_seed_all"):
        setattr(torch.cuda.random, name, answers[name])
    # torch's own optimizers ask here, and would start CUDA on a yes.
    torch.accelerator.is_available = _returning(False)
    torch.cuda.nvtx.range_push = _returning(None)
    torch.cuda.nvtx.range_pop = _returning(None)
    torch.Tensor.record_stream = _returning(None)
