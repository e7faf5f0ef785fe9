"""The kernel is CUDA's alone: in its place stands its definition, on the CPU, in float64."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_dasd.models import varlen
from megatron_dasd.models.context_parallel import own_positions
from tests.models.test_layers import dense_attention

LENGTHS, BORDERS = [5, 1, 7], [0, 8, 12, 24]


def kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """Every sequence by itself; the causal mask is aligned at the end of queries and keys."""
    assert window_size == (-1, 0)
    assert enable_gqa == (query.shape[1] != key.shape[1])
    queries, keys = cu_seq_q.tolist(), cu_seq_k.tolist()
    assert (queries[-1], keys[-1]) == (len(query), len(key))
    assert max_q == max(b - a for a, b in pairwise(queries))
    assert max_k == max(b - a for a, b in pairwise(keys))
    parts = []
    for (q0, q1), (k0, k1) in zip(pairwise(queries), pairwise(keys), strict=True):
        mask = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril((k1 - k0) - (q1 - q0))
        q, k, v = (x.transpose(0, 1)[None] for x in (query[q0:q1], key[k0:k1], value[k0:k1]))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("size", [1, 2])
def test_every_rank_attends_inside_documents(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen.varlen, "varlen_attn", kernel)
    torch.manual_seed(0)
    query = torch.randn(24, 6, 8, dtype=torch.float64)
    key, value = (torch.randn(24, 2, 8, dtype=torch.float64) for _ in range(2))
    document_ids = torch.tensor([0] * 5 + [-1] * 3 + [1] + [-1] * 3 + [2] * 7 + [-1] * 5)
    expected = dense_attention(query, key, value, document_ids)
    expected[document_ids < 0] = 0
    for rank in range(size):
        own = own_positions(torch.tensor(BORDERS).numpy(), rank, size)
        made = varlen.plan(LENGTHS, BORDERS, rank, size)
        out = varlen.attend(query[own], key, value, made, None).flatten(1)
        torch.testing.assert_close(out, expected[own])


def test_plan() -> None:
    # slots of 8, 4 and 12 for two ranks: chunks of 2, 1 and 3; rank 1 has the middle two
    assert varlen.plan(LENGTHS, BORDERS, 1, 2) == varlen.AttentionPlan(
        queries=[2, 2, 1, 1, 3, 3],
        keys=[4, 6, 2, 3, 6, 9],
        first_keys=[0, 0, 8, 8, 12, 12],
        num_real=[2, 1, 0, 0, 3, 1],
    )


def test_what_the_kernel_takes() -> None:
    on_gpu: Any = type("Query", (), {"is_cuda": True, "dtype": torch.bfloat16})
    assert varlen.takes(on_gpu)
    on_gpu.dtype = torch.float32
    assert not varlen.takes(on_gpu)
    assert not varlen.takes(torch.zeros(1, dtype=torch.bfloat16))
