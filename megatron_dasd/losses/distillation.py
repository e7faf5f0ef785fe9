"""Token-level distillation from the teacher's likeliest tokens, in place of the output layer.

    loss_t = (1 - w) cross-entropy_t + w divergence_t

The student's side costs no more than the cross-entropy: the log-probs of the label, of the
teacher's tokens and of the rest come out of the same chunked, vocabulary-parallel pass.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from megatron_dasd.losses.divergences import Divergence, divergence, with_tail
from megatron_dasd.losses.output_layer import output_logprobs


@dataclass(frozen=True)
class TeacherTop:
    """What is known of the teacher at every position: its k likeliest next tokens."""

    token_ids: Tensor
    """``[batch, seq, k]``, those of a position distinct, -1 where fewer than k are known."""
    logprobs: Tensor
    """``[batch, seq, k]``, natural, untempered; -inf where there is no token."""


class TokenDistances(NamedTuple):
    """Of every token, ``[batch, seq]``."""

    cross_entropy: Tensor
    """-ln p(label)."""
    divergence: Tensor
    """Between teacher and student, over the teacher's tokens and any other."""
    teacher_mass: Tensor
    """Probability that the teacher gives to its known tokens: what the divergence covers."""
    student_mass: Tensor
    """Probability that the student gives to them."""


def token_distances(
    *,
    vocab_size: int,
    name: Divergence,
    beta: float,
    context: TeacherTop,
    hidden_states: Tensor,
    output_layer: torch.nn.Module,
    output_weight: Tensor | None,
    labels: Tensor,
    scale_logits: Any,
    **_: Any,
) -> TokenDistances:
    """Distances of every token; arguments as in ``output_layer.token_losses``.

    Args:
        vocab_size: true size of the vocabulary.
        name: which divergence, with its ``beta``.
        context: the teacher's tokens at the positions of the labels.
    """
    top, teacher = (x.transpose(0, 1).flatten(0, 1) for x in (context.token_ids, context.logprobs))
    label = labels.t().reshape(-1, 1)
    is_label = top == label
    known = is_label.any(1)
    # the ids of a position are distinct: a label among the teacher's tokens is not asked for twice
    token_ids = torch.cat([top, label.masked_fill(known.unsqueeze(1), -1)], dim=1)
    logprobs, rest = output_logprobs(
        scale_logits(hidden_states), output_layer, output_weight, token_ids, vocab_size
    )
    of_top, of_label = logprobs[:, :-1], logprobs[:, -1]
    of_known_label = of_top.where(is_label, 0.0).sum(1)
    # a label that the teacher does not name is one of the others; -inf where it is named
    others = torch.logaddexp(rest, of_label)
    student = torch.cat([of_top, others.unsqueeze(1)], dim=1)
    distances = (
        -of_known_label.where(known, of_label),
        divergence(name, with_tail(teacher.to(student.dtype)), student, beta),
        teacher.exp().sum(1),
        of_top.detach().exp().sum(1),
    )
    batch, seq = labels.shape
    return TokenDistances(*(x.view(seq, batch).t() for x in distances))
