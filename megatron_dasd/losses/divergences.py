"""Distances between the teacher's and the student's distribution over the next token.

Only the teacher's k likeliest tokens are known.  Both distributions are therefore compared over
k + 1 outcomes: each of these tokens, and "any other token", which has the rest of the mass.
Merging outcomes can only bring distributions closer, so each f-divergence here is a lower bound of
the divergence between the whole distributions.  It is exact when the teacher's other tokens have no
mass.

q are the teacher's and p the student's probabilities; sums go over the outcomes, in nats; b is the
setting ``beta``.  To add a divergence, add its name to ``Divergence`` in ``config/choices.py`` and
an object to :data:`MEASURES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from megatron_dasd.config.choices import Divergence
from megatron_dasd.config.registry import Registry

_LEAST_TAIL = 1e-7
"""Probability of all other tokens when the known ones sum to 1 or, rounded, above it."""
_IMPOSSIBLE = -100.0
"""ln of the probability, on both sides, of an outcome that is masked out: it adds nothing."""


@dataclass(frozen=True)
class Measure:
    """A divergence between two distributions."""

    name: Divergence
    formula: str
    """As docs/losses.md shows it."""
    source: str
    """The paper that introduced it as a distillation loss; empty for a textbook distance."""
    compute: Callable[[Tensor, Tensor, float], Tensor]
    """Called with ln q and ln p, ``[..., k + 1]``, and b; returns ``[...]``."""


def _kl(left: Tensor, right: Tensor) -> Tensor:
    return (left.exp() * (left - right)).sum(-1)


def _mixture(q: Tensor, p: Tensor, beta: float) -> Tensor:
    """ln(beta q + (1 - beta) p) from logarithms."""
    shares = torch.tensor([beta, 1.0 - beta], dtype=q.dtype, device=q.device).log()
    return torch.logaddexp(q + shares[0], p + shares[1])


def _jensen_shannon(q: Tensor, p: Tensor, beta: float) -> Tensor:
    mixture = _mixture(q, p, beta)
    return beta * _kl(q, mixture) + (1.0 - beta) * _kl(p, mixture)


MEASURES = Registry(
    "divergence",
    [
        Measure("forward_kl", "KL(q, p)", "arXiv 1503.02531", lambda q, p, beta: _kl(q, p)),
        Measure("reverse_kl", "KL(p, q)", "arXiv 2306.08543", lambda q, p, beta: _kl(p, q)),
        Measure(
            "jensen_shannon",
            "b KL(q, m) + (1 - b) KL(p, m), m = b q + (1 - b) p",
            "arXiv 2306.13649",
            _jensen_shannon,
        ),
        Measure(
            "skew_kl",
            "KL(q, b q + (1 - b) p)",
            "arXiv 2402.03898",
            lambda q, p, beta: _kl(q, _mixture(q, p, beta)),
        ),
        Measure(
            "total_variation",
            "1/2 sum of abs(q - p)",
            "",
            lambda q, p, beta: 0.5 * (q.exp() - p.exp()).abs().sum(-1),
        ),
    ],
    get_args(Divergence),
)


def with_tail(teacher: Tensor) -> Tensor:
    """Complete the known log-probs with that of any other token, to a distribution.

    Args:
        teacher: ``[..., k]``, -inf where fewer than k are known.

    Returns:
        ``[..., k + 1]``.
    """
    known = teacher.exp().sum(-1, keepdim=True).clamp(max=1.0 - _LEAST_TAIL)
    every = torch.cat([teacher, (-known).log1p()], dim=-1)
    return every - every.logsumexp(-1, keepdim=True)


def divergence(name: Divergence, teacher: Tensor, student: Tensor, beta: float = 0.5) -> Tensor:
    """Compute the divergence at every position.

    Args:
        name: a name in :data:`MEASURES`.
        teacher: ``[..., k + 1]`` log-probs, a distribution.
        student: ``[..., k + 1]`` of the same outcomes; the gradient goes to it.  An outcome that is
            -inf on either side is masked out.
        beta: between 0 and 1, the teacher's share of a mixture.

    Returns:
        ``[...]`` in nats (total variation: a probability).

    Raises:
        UserError: no divergence has this name.
    """
    there = (teacher > float("-inf")) & (student > float("-inf"))
    q, p = (x.where(there, _IMPOSSIBLE) for x in (teacher, student))
    return MEASURES[name].compute(q, p, beta)
