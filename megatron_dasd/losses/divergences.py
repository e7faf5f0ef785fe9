"""Distances between the teacher's and the student's distribution over the next token.

Of the teacher only its k likeliest tokens are known.  Both distributions are therefore looked at
over k + 1 outcomes: each of these tokens, and "any other", which has what is left of the mass.
Merging outcomes can only bring distributions closer, so each f-divergence here is a lower bound of
that between the whole ones, exact when the teacher's other tokens have no mass.

With q the teacher's and p the student's probabilities, sums over the outcomes, in nats:

    forward_kl       KL(q || p)
    reverse_kl       KL(p || q)
    jensen_shannon   b KL(q || m) + (1 - b) KL(p || m),  m = b q + (1 - b) p    (arXiv 2306.13649)
    skew_kl          KL(q || s),                         s = b q + (1 - b) p    (arXiv 2402.03898)
    total_variation  1/2 sum |q - p|

``b`` is the setting ``beta``.
"""

import torch
from torch import Tensor

from megatron_dasd.config.training import Divergence

_LEAST_TAIL = 1e-7
"""What is left to other tokens when the known ones sum to 1 or, rounded, above it."""
_IMPOSSIBLE = -100.0
"""ln of the probability, on both sides, of an outcome that is not there: it adds nothing."""


def with_tail(teacher: Tensor) -> Tensor:
    """The known log-probs and that of any other token, a distribution.

    Args:
        teacher: ``[..., k]``, -inf where fewer than k are known.

    Returns:
        ``[..., k + 1]``.
    """
    known = teacher.exp().sum(-1, keepdim=True).clamp(max=1.0 - _LEAST_TAIL)
    every = torch.cat([teacher, (-known).log1p()], dim=-1)
    return every - every.logsumexp(-1, keepdim=True)


def divergence(name: Divergence, teacher: Tensor, student: Tensor, beta: float = 0.5) -> Tensor:
    """Divergence of every position.

    Args:
        teacher: ``[..., k + 1]`` log-probs, a distribution.
        student: ``[..., k + 1]`` of the same outcomes; the gradient goes to it.  Where either is
            -inf on both sides or the student's alone, the outcome is left out.
        beta: between 0 and 1, the teacher's share of a mixture.

    Returns:
        ``[...]`` in nats (total variation: a probability).
    """
    there = (teacher > float("-inf")) & (student > float("-inf"))
    q, p = (x.where(there, _IMPOSSIBLE) for x in (teacher, student))
    if name == "forward_kl":
        return _kl(q, p)
    if name == "reverse_kl":
        return _kl(p, q)
    if name == "total_variation":
        return 0.5 * (q.exp() - p.exp()).abs().sum(-1)
    mixture = _mixture(q, p, beta)
    if name == "skew_kl":
        return _kl(q, mixture)
    return beta * _kl(q, mixture) + (1.0 - beta) * _kl(p, mixture)


def _kl(left: Tensor, right: Tensor) -> Tensor:
    return (left.exp() * (left - right)).sum(-1)


def _mixture(q: Tensor, p: Tensor, beta: float) -> Tensor:
    """ln(beta q + (1 - beta) p) from logarithms."""
    shares = torch.tensor([beta, 1.0 - beta], dtype=q.dtype, device=q.device).log()
    return torch.logaddexp(q + shares[0], p + shares[1])
