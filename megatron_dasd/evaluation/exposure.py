"""Exposure bias as a number.

A student trained only on the teacher's prefixes gives a low likelihood to what the teacher writes
after the student's own prefix.  For one student, in nats per token,

    bias = NLL(teacher's continuation | student's prefix)
         - NLL(rest of the teacher's own response | its own beginning)

with the same share of the response before the cut in both terms, prompt by prompt.  Responses are
held out.  Several rollouts per prompt give several draws of the number, and their spread.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from megatron_dasd.records import ScoredResponse


@dataclass
class _Sum:
    nats: float = 0.0
    tokens: int = 0

    def add(self, logprobs: list[float]) -> None:
        self.nats -= sum(logprobs)
        self.tokens += len(logprobs)

    @property
    def mean(self) -> float:
        return self.nats / self.tokens


class ExposureFigures(TypedDict):
    """Exposure bias of one student."""

    mean: float
    """Over the draws, in nats per token."""
    spread: float | None
    """Standard deviation over the draws; None for one draw."""
    after_student: float
    """Nats per token behind the student's prefixes, over all draws."""
    after_teacher: float
    """Nats per token behind the teacher's own beginnings, over all draws."""
    num_draws: int
    num_continuations: int


def exposure_figures(
    mixed: Mapping[str, Iterable[ScoredResponse]],
    own: Mapping[str, Iterable[ScoredResponse]],
) -> dict[str, ExposureFigures]:
    """Compute the exposure bias of each student.

    Args:
        mixed: continuations that the student has scored, with their student prefixes.
        own: the teacher's own responses to the same prompts, scored by the same student.

    Returns:
        By name; without the students for whom no continuation can be compared.
    """
    found = {}
    for name, records in mixed.items():
        responses = defaultdict(list)
        for record in own[name]:
            responses[record.prompt.prompt_id].append(record.student_tokens.logprobs)
        figures = _student_figures(records, responses)
        if figures:
            found[name] = figures
    return found


def _student_figures(
    records: Iterable[ScoredResponse], responses: Mapping[str, list[list[float]]]
) -> ExposureFigures | None:
    draws: dict[int, tuple[_Sum, _Sum]] = defaultdict(lambda: (_Sum(), _Sum()))
    num_continuations = 0
    for record in records:
        logprobs, num_prefix = record.student_tokens.logprobs, len(record.student_prefix_ids)
        others = responses.get(record.prompt.prompt_id)
        if not num_prefix or not others:
            continue
        num_continuations += 1
        after_student, after_teacher = draws[record.candidate]
        after_student.add(logprobs[num_prefix:])
        share = num_prefix / len(logprobs)
        for other in others:
            after_teacher.add(other[min(round(share * len(other)), len(other) - 1) :])
    if not draws:
        return None
    biases = [student.mean - teacher.mean for student, teacher in draws.values()]
    both = [_Sum(), _Sum()]
    for pair in draws.values():
        for total, part in zip(both, pair, strict=True):
            total.nats += part.nats
            total.tokens += part.tokens
    return {
        "mean": statistics.fmean(biases),
        "spread": statistics.stdev(biases) if len(biases) > 1 else None,
        "after_student": both[0].mean,
        "after_teacher": both[1].mean,
        "num_draws": len(biases),
        "num_continuations": num_continuations,
    }
