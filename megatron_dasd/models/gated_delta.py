"""Gated delta rule and causal convolution of packed rows, in torch (pure).

Linear attention keeps one matrix S, ``[K, V]``, a head instead of all keys and values.  Every token
lets it decay, reads what it holds for the token's key, and writes back part of the difference to
the token's value::

    S   <-  exp(g_t) S
    S   <-  S + beta_t k_t (v_t - k_t S)        k_t: [1, K] read, [K, 1] written
    o_t  =  q_t S / sqrt(K)

(Yang, Kautz, Hatamizadeh, "Gated Delta Networks", arXiv:2412.06464, equation 10.)  Token by token
that is slow.  The chunked form of the same paper computes 64 tokens at a time: inside a chunk the
corrections depend on each other through a unit triangular system, which is solved for all chunks at
once; only the states go from chunk to chunk.  Here the chunks of all documents of a row are solved
together, and the states of all documents advance together.

Names of arguments are those of ``fla`` (flash-linear-attention), whose kernels want a GPU and 16
bits.
Shapes: T tokens of a row, N heads, K channels of a key, V of a value, C tokens of a chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from megatron_dasd.models.linear_attention import CHUNK

_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "silu": F.silu,
    "swish": F.silu,
}


def l2norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide by ``sqrt(sum(x^2) + eps)`` over the last dimension, computed in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().sum(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Convolve each channel of each document by itself; tokens see W - 1 tokens before them.

    Args:
        x: ``[1, T, channels]``.
        weight: ``[channels, W]``; the last column is the token's own.
        bias: ``[channels]``.
        activation: ``silu`` or None.
        cu_seqlens: ``[documents + 1]``, where the documents begin and the row ends; None: one.

    Returns:
        ``[1, T, channels]``, and no state.
    """
    _refuse_states(x, initial_state, output_final_state)
    starts = _borders(cu_seqlens, x.shape[1])
    gap = weight.shape[1] - 1
    lengths = torch.tensor([end - start for start, end in pairwise(starts)])
    # Every document behind zeros of its own, so that the shifted views below need no mask.
    shift = (torch.arange(1, len(starts)) * gap).repeat_interleave(lengths).to(x.device)
    places = torch.arange(x.shape[1], device=x.device) + shift
    rows = x.new_zeros(x.shape[1] + gap * (len(starts) - 1), x.shape[2])
    # Not index_copy, which would keep what it copies for the backward pass.
    rows = rows.index_put((places,), x[0])
    size = len(rows) - gap
    out = rows[:size] * weight[:, 0]
    for tap in range(1, gap + 1):
        out = torch.addcmul(out, rows[tap : tap + size], weight[:, tap])
    if bias is not None:
        out = out + bias
    return _ACTIVATIONS[activation](out.index_select(0, places - gap)).unsqueeze(0), None


@dataclass(frozen=True)
class _Chunks:
    """How the tokens of a row lie in chunks: all documents' first ones, all second ones, ...

    Within each of these steps the documents with the most chunks come first, so that the documents
    that still go on are always the first few.
    """

    places: list[int]
    """``[T]``, each token's place among the ``chunks x C`` places."""
    documents: list[int]
    """Number of documents that have a chunk at each step."""


def _lay_out(starts: list[int], chunk: int) -> _Chunks:
    lengths = [end - start for start, end in pairwise(starts)]
    counts = [-(-length // chunk) for length in lengths]
    rank = {n: i for i, n in enumerate(sorted(range(len(counts)), key=lambda n: -counts[n]))}
    documents = [sum(count > step for count in counts) for step in range(max(counts, default=0))]
    first = [0]
    for number in documents:
        first.append(first[-1] + number)
    places = [
        (first[at // chunk] + rank[n]) * chunk + at % chunk
        for n, length in enumerate(lengths)
        for at in range(length)
    ]
    return _Chunks(places, documents)


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    chunk_size: int = CHUNK,
) -> tuple[Tensor, None]:
    """Gated delta rule of a packed row, every document from an empty state.

    Computes in float32, in float64 where that is given.

    Args:
        q: ``[1, T, N, K]``.
        k: ``[1, T, N, K]``, of length 1 at most.
        v: ``[1, T, N, V]``.
        g: natural logarithm of the decay, at most 0, ``[1, T, N]``.
        beta: in [0, 1], ``[1, T, N]``.
        use_qk_l2norm_in_kernel: whether ``q`` and ``k`` are normalised first (:func:`l2norm`).
        cu_seqlens: ``[documents + 1]``, where the documents begin and the row ends; None: one.

    Returns:
        ``[1, T, N, V]`` in the type of ``q``, and no state.
    """
    _refuse_states(q, initial_state, output_final_state)
    if use_qk_l2norm_in_kernel:
        q, k = l2norm(q), l2norm(k)
    layout = _lay_out(_borders(cu_seqlens, q.shape[1]), chunk_size)
    places = torch.tensor(layout.places, device=q.device)
    wide = torch.promote_types(q.dtype, torch.float32)

    def chunked(x: Tensor) -> Tensor:
        """``[T, N, ...]`` to ``[chunks, N, C, ...]``, zeros where a chunk has no token."""
        empty = x.new_zeros(sum(layout.documents) * chunk_size, *x.shape[1:], dtype=wide)
        rows: Tensor = empty.index_put((places,), x.to(wide)).unflatten(0, (-1, chunk_size))
        return rows.transpose(1, 2).contiguous()

    query, key, value = chunked(q[0]) * k.shape[-1] ** -0.5, chunked(k[0]), chunked(v[0])
    out = _rule(query, key, value, chunked(g[0]), chunked(beta[0]), layout.documents)
    rows = out.transpose(1, 2).flatten(0, 1).index_select(0, places)
    return rows.to(q.dtype).unsqueeze(0), None


def _rule(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, documents: list[int]
) -> Tensor:
    """The rule over chunks, ``[chunks, N, C, ...]``, that lie as :class:`_Chunks` has it."""
    size = g.shape[-1]
    # From the chunk's beginning, the token's own included.  In float64: a strong decay early in the
    # chunk would cost the differences between later tokens their last digits.
    decay = g.double().cumsum(-1).unsqueeze(-1)
    later = torch.ones(size, size, dtype=torch.bool, device=g.device).triu(1)
    # Never above 0: what would overflow is masked before the exponential.
    between = (decay - decay.transpose(-1, -2)).to(g.dtype).masked_fill(later, float("-inf")).exp()
    from_start, weight = decay.to(g.dtype).exp(), beta.unsqueeze(-1)
    written = key * weight
    system = (written @ key.transpose(-1, -2)) * between
    right = torch.cat((value * weight, written * from_start), dim=-1)
    # Reads the part below the diagonal alone and takes the diagonal for ones.
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    values, reads = solved.split((value.shape[-1], key.shape[-1]), dim=-1)
    attention = (query @ key.transpose(-1, -2)) * between
    last = decay[..., -1:, :]
    steps = zip(
        *(
            x.split(documents)
            for x in (
                values,
                reads,
                attention,
                query * from_start,
                (key * (last - decay).to(g.dtype).exp()).transpose(-1, -2),
                last.to(g.dtype).exp(),
            )
        ),
        strict=True,
    )
    state, out = None, []
    for u, w, within, q, k, kept in steps:
        if state is None:
            new = u
            out.append(within @ new)
            state = k @ new
        else:
            state = state[: len(u)]
            new = u - w @ state
            out.append(q @ state + within @ new)
            state = state * kept + k @ new
    return torch.cat(out)


def _borders(cu_seqlens: Tensor | None, tokens: int) -> list[int]:
    starts: list[int] = [0, tokens] if cu_seqlens is None else cu_seqlens.tolist()
    if starts[0] != 0 or starts[-1] != tokens:
        raise ValueError(f"documents from {starts[0]} to {starts[-1]} in a row of {tokens} tokens")
    return starts


def _refuse_states(x: Tensor, initial_state: object, output_final_state: bool) -> None:
    if len(x) != 1 or initial_state is not None or output_final_state:
        raise ValueError("takes one packed row, whose documents begin and end in it")
