from types import SimpleNamespace

import torch

from megatron_dasd.models.layers import PackedAttention, RMSNorm
from megatron_dasd.models.packed import packed_seq_params

CONFIG = SimpleNamespace(params_dtype=torch.float32, sequence_parallel=True)


def dense_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, document_ids: torch.Tensor
) -> torch.Tensor:
    """The definition, in float64: softmax over what stands before in the same document."""
    query, key, value = (x.double() for x in (query, key, value))
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    same = document_ids[:, None] == document_ids[None, :]
    allowed = same & torch.ones_like(same).tril()
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value).flatten(1)


def test_packed_attention_stays_inside_documents() -> None:
    torch.manual_seed(0)
    document_ids = torch.tensor([0] * 5 + [1] + [2] * 7 + [-1] * 3)
    query = torch.randn(16, 6, 8)
    key, value = torch.randn(16, 2, 8), torch.randn(16, 2, 8)
    attention = PackedAttention(CONFIG, 1, None, "self")
    out = attention(query, key, value, packed_seq_params=packed_seq_params(document_ids))
    expected = dense_attention(query, key, value, document_ids)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)


def test_first_token_of_each_document_sees_only_itself() -> None:
    value = torch.arange(12.0).reshape(4, 1, 3)
    params = packed_seq_params(torch.tensor([0, 0, 1, 1]))
    out = PackedAttention(CONFIG, 1, None, "self")(
        torch.randn(4, 1, 3), torch.randn(4, 1, 3), value, packed_seq_params=params
    )
    assert out[0].tolist() == [0.0, 1.0, 2.0]
    assert out[2].tolist() == [6.0, 7.0, 8.0]


def test_borders_and_longest_document() -> None:
    params = packed_seq_params(torch.tensor([0, 0, 0, 1, 2, 2, -1, -1]))
    assert params.cu_seqlens_q.tolist() == [0, 3, 4, 6, 8]
    assert params.cu_seqlens_q.dtype == torch.int32
    assert params.max_seqlen_q == 3


def test_rms_norm_by_hand() -> None:
    norm = RMSNorm(CONFIG, 2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    # root mean square of (3, 4) is sqrt(12.5)
    out = norm(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(out, torch.tensor([[3 / 12.5**0.5, 8 / 12.5**0.5]]))
    assert norm.weight.sequence_parallel is True
