"""Token-level distillation from the teacher's likeliest tokens; replaces the output layer.

    loss_t = (1 - w) cross-entropy_t + w divergence_t        where the teacher's tokens are known
    loss_t = cross-entropy_t                                 elsewhere

The student's side costs no more than the cross-entropy: the same chunked, vocabulary-parallel pass
gives the log-probs of the label, of the teacher's tokens and of the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_dasd.config.choices import Divergence
from megatron_dasd.losses.cross_entropy import weighted_loss
from megatron_dasd.losses.divergences import divergence, with_tail
from megatron_dasd.losses.output_layer import OutputLayer, output_logprobs


@dataclass(frozen=True)
class TeacherTop:
    """The teacher's k likeliest next tokens at every position."""

    token_ids: Tensor
    """``[batch, seq, k]``, distinct at each position, -1 where fewer than k are known."""
    logprobs: Tensor
    """``[batch, seq, k]``, natural, untempered; -inf where there is no token."""


def token_distances(
    *,
    vocab_size: int,
    name: Divergence,
    beta: float,
    teacher: TeacherTop,
    hidden_states: Tensor,
    output_layer: OutputLayer,
    output_weight: Tensor | None,
    labels: Tensor,
    scale_logits: Callable[[Tensor], Tensor],
    slice_mib: int | None = None,
    **_: object,
) -> Tensor:
    """Compute the distances of every token; arguments as in ``output_layer.token_losses``.

    Args:
        vocab_size: true size of the vocabulary.
        name: the divergence.
        beta: the teacher's share of its mixture.
        teacher: the teacher's tokens at the positions of the labels.

    Returns:
        ``[4, batch, seq]``: the cross-entropy -ln p(label); the divergence; the probability that
        the teacher gives to its known tokens, which is what the divergence covers; and the
        probability that the student gives to them.
    """
    top, known_logprobs = (
        x.transpose(0, 1).flatten(0, 1) for x in (teacher.token_ids, teacher.logprobs)
    )
    label = labels.t().reshape(-1, 1)
    is_label = top == label
    known = is_label.any(1)
    # linear_logprobs requires distinct ids: a label among the teacher's tokens is masked out
    token_ids = torch.cat([top, label.masked_fill(known.unsqueeze(1), -1)], dim=1)
    logprobs, rest = output_logprobs(
        scale_logits(hidden_states), output_layer, output_weight, token_ids, vocab_size, slice_mib
    )
    of_top, of_label = logprobs[:, :-1], logprobs[:, -1]
    of_known_label = of_top.where(is_label, 0.0).sum(1)
    # a label outside the teacher's tokens counts to the others; -inf where it is among them
    others = torch.logaddexp(rest, of_label)
    student = torch.cat([of_top, others.unsqueeze(1)], dim=1)
    distances = [
        -of_known_label.where(known, of_label),
        divergence(name, with_tail(known_logprobs.to(student.dtype)), student, beta),
        known_logprobs.exp().sum(1).to(student.dtype),
        of_top.detach().exp().sum(1),
    ]
    batch, seq = labels.shape
    return torch.stack(distances).view(4, seq, batch).transpose(1, 2)


def distillation_loss(
    factors: Tensor, counts: Tensor, weight: float, distances: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Mix cross-entropy and divergence; arguments and result as in ``weighted_loss``.

    The logged divergence covers the positions at which the teacher's tokens are known.

    Args:
        factors: ``[batch, seq]``
        counts: ``[batch, seq]``
        weight: weight of the divergence where the teacher's tokens are known, between 0 and 1.
        distances: ``[4, batch, seq]``, see :func:`token_distances`.
    """
    known = distances[2].detach() > 0
    of_known = factors * known
    cross_entropy, divisor, logged = weighted_loss(factors, counts, distances[0])
    kept, _, _ = weighted_loss(of_known, counts, distances[0])
    sums = [weighted_loss(of_known, counts * known, values) for values in distances[1:]]
    total = cross_entropy + weight * (sums[0][0] - kept)
    names = ("distillation loss", "teacher mass", "student mass")
    logged |= {name: part[2]["lm loss"] for name, part in zip(names, sums, strict=True)}
    return total, divisor, logged
