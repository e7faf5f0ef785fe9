from types import SimpleNamespace

import numpy as np
import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_dasd.data.rows import packed_row
from megatron_dasd.models.layers import PackedAttention, RMSNorm
from megatron_dasd.models.packed import packed_seq_params, to_batch

CONFIG = SimpleNamespace(
    params_dtype=torch.float32,
    sequence_parallel=True,
    context_parallel_size=1,
    layernorm_zero_centered_gamma=False,
    window_size=None,
    window_attn_skip_freq=None,
)


def params_of(lengths: list[int], seq_length: int, align: int) -> PackedSeqParams:
    """Borders of a row of documents of these lengths."""
    documents = [{"tokens": np.ones(n, int), "loss_mask": np.ones(n)} for n in lengths]
    return packed_seq_params(to_batch(packed_row(documents, seq_length, align)))


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
    document_ids = torch.tensor([0] * 5 + [-1] * 3 + [1] + [-1] * 3 + [2] * 7 + [-1] * 5)
    query = torch.randn(24, 6, 8)
    key, value = torch.randn(24, 2, 8), torch.randn(24, 2, 8)
    padding = document_ids < 0
    key[padding], value[padding] = float("nan"), float("nan")  # whoever looks there will tell
    params = params_of([5, 1, 7], seq_length=24, align=4)
    out = PackedAttention(CONFIG, 1, None, "self")(query, key, value, packed_seq_params=params)
    expected = dense_attention(query, key.nan_to_num(), value.nan_to_num(), document_ids)
    torch.testing.assert_close(out[~padding].double(), expected[~padding], atol=1e-6, rtol=0)
    assert not out[padding].any()


def test_a_row_of_padding_is_one_token_and_zeros() -> None:
    query, key, value = (torch.randn(8, 2, 4, requires_grad=True) for _ in range(3))
    params = params_of([], seq_length=8, align=4)
    out = PackedAttention(CONFIG, 1, None, "self")(query, key, value, packed_seq_params=params)
    torch.testing.assert_close(out[0], value[0].flatten())
    assert out[1:].tolist() == [[0.0] * 8] * 7
    # no loss is taken of that token
    out[1:].sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in (query, key, value))


def test_first_token_of_each_document_sees_only_itself() -> None:
    value = torch.arange(12.0).reshape(4, 1, 3)
    params = params_of([2, 2], seq_length=4, align=1)
    out = PackedAttention(CONFIG, 1, None, "self")(
        torch.randn(4, 1, 3), torch.randn(4, 1, 3), value, packed_seq_params=params
    )
    assert out[0].tolist() == [0.0, 1.0, 2.0]
    assert out[2].tolist() == [6.0, 7.0, 8.0]


def test_borders_and_longest_slot() -> None:
    params = params_of([3, 1, 2], seq_length=9, align=2)
    assert params.cu_seqlens_q.tolist() == params.cu_seqlens_kv.tolist() == [0, 3, 4, 6]
    assert params.cu_seqlens_q_padded.tolist() == [0, 4, 6, 9]
    assert params.cu_seqlens_kv_padded.tolist() == [0, 4, 6, 9]
    assert params.cu_seqlens_q.dtype == params.cu_seqlens_q_padded.dtype == torch.int32
    assert params.max_seqlen_q == params.max_seqlen_kv == 4


def test_rms_norm_by_hand() -> None:
    norm = RMSNorm(CONFIG, 2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    # root mean square of (3, 4) is sqrt(12.5)
    out = norm(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(out, torch.tensor([[3 / 12.5**0.5, 8 / 12.5**0.5]]))
    assert norm.weight.sequence_parallel is True


def test_rms_norm_around_one() -> None:
    config = SimpleNamespace(**vars(CONFIG) | {"layernorm_zero_centered_gamma": True})
    norm = RMSNorm(config, 2, eps=0.0)
    assert norm.weight.tolist() == [0.0, 0.0]
    torch.nn.init.constant_(norm.weight, 0.5)
    # both values over their root mean square 5, times 1.5
    x = torch.tensor([[1.0, 7.0]])
    torch.testing.assert_close(norm(x), torch.tensor([[0.3, 2.1]]))


def test_16_bits_keep_a_small_weight_beside_the_one() -> None:
    config = {"params_dtype": torch.bfloat16, "layernorm_zero_centered_gamma": True}
    norm = RMSNorm(SimpleNamespace(**vars(CONFIG) | config), 4, eps=0.0)
    torch.nn.init.constant_(norm.weight, 3 * 2**-10)
    assert (1 + norm.weight)[0].item() == 1.0  # in bfloat16 the sum would lose it
    # of root mean square 1: 1.9922 x 1.0029 = 1.9980, of whose neighbours 2 is the nearest
    x = torch.tensor([1.9921875, 0.1768, 0.0, 0.0], dtype=torch.bfloat16)
    assert norm(x)[0].item() == 2.0


def windowed(window: int) -> SimpleNamespace:
    """A config whose second layer has a window of so many tokens."""
    return SimpleNamespace(
        **vars(CONFIG) | {"window_size": (window - 1, 0), "window_attn_skip_freq": [0, 1]}
    )


@pytest.mark.parametrize("window", [1, 3, 7, 30])
def test_a_layer_with_a_window_looks_back_so_far(window: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(12, 4, 8, requires_grad=True)
    key, value = (torch.randn(12, 2, 8, requires_grad=True) for _ in range(2))
    params = params_of([5, 7], seq_length=12, align=1)
    out = PackedAttention(windowed(window), 2, None, "self")(
        query, key, value, packed_seq_params=params
    )
    document = torch.tensor([0] * 5 + [1] * 7)
    distance = torch.arange(12)[:, None] - torch.arange(12)
    seen = (document[:, None] == document) & (distance >= 0) & (distance < window)
    keys, values = (x.double().repeat_interleave(2, 1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.double(), keys) / 8**0.5
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    expected = torch.einsum("hqk,khd->qhd", weights, values).flatten(1)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)
    wanted = torch.randn(12, 32)
    inputs = (query, key, value)
    ours = torch.autograd.grad((out * wanted).sum(), inputs, retain_graph=True)
    theirs = torch.autograd.grad((expected * wanted).sum(), inputs)
    for ours_of_it, theirs_of_it in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_of_it, theirs_of_it, atol=2e-6, rtol=0)


def test_a_layer_without_a_window_among_those_that_have_one() -> None:
    query, key, value = (torch.randn(6, 2, 4) for _ in range(3))
    params = params_of([6], seq_length=6, align=1)
    plain = PackedAttention(CONFIG, 1, None, "self")(query, key, value, packed_seq_params=params)
    full = PackedAttention(windowed(2), 1, None, "self")(
        query, key, value, packed_seq_params=params
    )
    assert torch.equal(plain, full)
