"""Held against the recurrence as the paper writes it, token by token, in float64."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megatron_dasd.models.gated_delta import causal_conv1d, chunk_gated_delta_rule, l2norm

ROWS = st.lists(st.integers(0, 21), min_size=1, max_size=5).filter(any)


def borders(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, cu_seqlens: Tensor
) -> Tensor:
    """Equation 10 of arXiv:2412.06464 for every head of every document, ``[1, T, N, V]``."""
    out = []
    for start, end in pairwise(cu_seqlens.tolist()):
        state = q.new_zeros(q.shape[2], q.shape[3], v.shape[3])
        for t in range(start, end):
            state = state * g[0, t, :, None, None].exp()
            held = torch.einsum("nk,nkv->nv", k[0, t], state)
            difference = beta[0, t, :, None] * (v[0, t] - held)
            state = state + torch.einsum("nk,nv->nkv", k[0, t], difference)
            out.append(torch.einsum("nk,nkv->nv", q[0, t], state) / q.shape[3] ** 0.5)
    return torch.stack(out).unsqueeze(0)


def draw(tokens: int, seed: int, strength: float = 1.0) -> list[Tensor]:
    """Queries, keys, values, decays and betas of a row, in float64: 3 heads of 5 and 7."""
    noise = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, tokens, 3, *shape, generator=noise, dtype=torch.float64)

    q, k, v = l2norm(normal(5)), l2norm(normal(5)), normal(7)
    return [q, k, v, -strength * normal().exp(), normal().sigmoid()]


def rule(inputs: list[Tensor], cu_seqlens: Tensor | None = None, chunk: int = 64) -> Tensor:
    q, k, v, g, beta = inputs
    return chunk_gated_delta_rule(q, k, v, g, beta, cu_seqlens=cu_seqlens, chunk_size=chunk)[0]


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a part of the largest value."""
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    noise = torch.Generator().manual_seed(1)
    towards = torch.randn(out.shape, generator=noise, dtype=torch.float64).to(out.dtype)
    return list(torch.autograd.grad(out, inputs, towards))


@settings(max_examples=20, deadline=None)
@given(lengths=ROWS, seed=st.integers(0, 99), chunk=st.sampled_from([1, 4, 8, 64]))
def test_rule_is_the_recurrence(lengths: list[int], seed: int, chunk: int) -> None:
    cu_seqlens = borders(lengths)
    inputs = [x.requires_grad_() for x in draw(sum(lengths), seed)]
    expected = recurrence(*inputs, cu_seqlens)
    out = rule(inputs, cu_seqlens, chunk)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 30.0])
def test_in_float32_it_is_near_the_recurrence_in_float64(strength: float) -> None:
    lengths = [150, 1, 64, 0, 85]
    exact = [x.requires_grad_() for x in draw(sum(lengths), 0, strength)]
    single = [x.detach().float().requires_grad_() for x in exact]
    expected = recurrence(*exact, borders(lengths))
    out = rule(single, borders(lengths))
    assert out.dtype == torch.float32
    assert distance(out, expected) < 1e-5
    for ours, theirs in zip(gradients(out, single), gradients(expected, exact), strict=True):
        assert distance(ours, theirs) < 1e-5


def test_one_document_is_a_row_without_borders() -> None:
    inputs = draw(70, 3)
    torch.testing.assert_close(rule(inputs), recurrence(*inputs, borders([70])))


def test_documents_do_not_see_each_other() -> None:
    lengths = [33, 70, 12]
    inputs = [x.float() for x in draw(sum(lengths), 4)]
    packed = rule(inputs, borders(lengths))
    parts = zip(*(x.split(lengths, dim=1) for x in inputs), strict=True)
    alone = torch.cat([rule(list(part)) for part in parts], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-6)


def test_16_bits_are_computed_in_32() -> None:
    half = [x.bfloat16() for x in draw(40, 5)]
    out, wide = rule(half), rule([x.float() for x in half])
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wide, rtol=2**-7, atol=1e-3)


def test_norm_of_queries_and_keys() -> None:
    q, k, v, g, beta = draw(9, 6)
    inside, _ = chunk_gated_delta_rule(3 * q, 2 * k, v, g, beta, use_qk_l2norm_in_kernel=True)
    outside, _ = chunk_gated_delta_rule(l2norm(3 * q), l2norm(2 * k), v, g, beta)
    torch.testing.assert_close(inside, outside)


def test_l2norm_worked_out() -> None:
    assert l2norm(torch.tensor([3.0, 4.0]), eps=0.0).tolist() == pytest.approx([0.6, 0.8])
    # sqrt(0 + 1e-6) is not 0
    assert l2norm(torch.tensor([0.0])).tolist() == [0.0]


@settings(max_examples=20, deadline=None)
@given(lengths=ROWS, seed=st.integers(0, 99), width=st.integers(1, 5), biased=st.booleans())
def test_convolution_of_each_document(
    lengths: list[int], seed: int, width: int, biased: bool
) -> None:
    torch.manual_seed(seed)
    x, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, sum(lengths), 3), (3, width), (3,))
    )
    inputs = [x, weight, bias][: 2 + biased]
    given_bias = bias if biased else None
    out, _ = causal_conv1d(x, weight, given_bias, "silu", cu_seqlens=borders(lengths))
    parts = [
        torch.nn.functional.conv1d(
            torch.nn.functional.pad(document.mT, (width - 1, 0)),
            weight.unsqueeze(1),
            given_bias,
            groups=3,
        ).mT
        for document in x.split(lengths, dim=1)
        if document.shape[1]
    ]
    expected = torch.nn.functional.silu(torch.cat(parts, dim=1))
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_convolution_worked_out() -> None:
    row = torch.tensor([1.0, 10.0, 100.0, 1.0, 10.0]).view(1, 5, 1)
    out, _ = causal_conv1d(row, torch.tensor([[3.0, 2.0, 1.0]]), cu_seqlens=torch.tensor([0, 3, 5]))
    assert out.flatten().tolist() == [1.0, 12.0, 123.0, 1.0, 12.0]


def test_borders_are_those_of_the_row() -> None:
    with pytest.raises(ValueError, match="documents from 0 to 4 in a row of 5 tokens"):
        causal_conv1d(torch.zeros(1, 5, 1), torch.ones(1, 2), cu_seqlens=torch.tensor([0, 4]))
    q, k, v, g, beta = draw(3, 0)
    with pytest.raises(ValueError, match="one packed row"):
        chunk_gated_delta_rule(q, k, v, g, beta, output_final_state=True)
