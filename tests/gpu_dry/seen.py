"""What reached the stand-ins for Transformer Engine's kernels, and what all of them need."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

TYPES = {4: torch.float32, 5: torch.float16, 6: torch.bfloat16}
"""By the number of ``DType``."""


@dataclass(frozen=True)
class Attention:
    """What reached the attention's kernel."""

    name: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    dtype: str
    max_q: int
    max_kv: int
    layout: str
    mask: str
    num_borders: tuple[int, int, int, int]
    """Of ``cu_seqlens`` and ``cu_seqlens_padded`` of queries and of keys; 0: not given."""
    deterministic: bool


products: Counter[tuple[str, str, str]] = Counter()
"""Matrix products by the types of both sides and of the result."""
attention: list[Attention] = []
rotary: Counter[tuple[str, int, int]] = Counter()
"""Fused rotary embeddings by format, context-parallel ranks and rank."""
calls: Counter[str] = Counter()


def size(tensor: object) -> torch.Size:
    """Of a tensor or of Transformer Engine's storage of a quantised one."""
    return torch.Size(tensor.shape if isinstance(tensor, Tensor) else tensor.size())


def kind(tensor: object) -> str:
    """A tensor's type, or the name of its quantisation."""
    name = type(tensor).__name__
    if name.startswith(("Float8", "MXFP8")):
        return name.removesuffix("Storage").removesuffix("Tensor").removesuffix("Q")
    return str(tensor.dtype).removeprefix("torch.")
