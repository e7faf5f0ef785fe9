"""A layer's state in a checkpoint as Transformer Engine keeps its own: bytes of a pickle, a tensor.

The inspection of checkpoints passes nothing else.  The pickle holds numbers alone, and reading it
makes nothing but numbers.
"""

import io
import pickle

import torch
from torch import Tensor


class _NumbersUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"names {module}.{name}")


def pack(state: Tensor | None) -> Tensor | None:
    """The state, ``[rows, columns]`` float32, as bytes; None stays None."""
    if state is None:
        return None
    return torch.frombuffer(bytearray(pickle.dumps(state.tolist())), dtype=torch.uint8)


def unpack(packed: object) -> Tensor | None:
    """The state that :func:`pack` was given; None: another program's, or there is none."""
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or not packed.numel():
        return None
    try:
        rows = _NumbersUnpickler(io.BytesIO(packed.cpu().numpy().tobytes())).load()
        return torch.tensor(rows, dtype=torch.float32)
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError):
        return None
