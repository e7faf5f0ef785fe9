"""Held-out negative log-likelihood of the student, before training and after each stage."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.statistics import EstimateFigures, ratio_estimate
from megatron_dasd.records import ResponseKey, ScoredResponse


@dataclass
class _Scores:
    """One scoring of the held-out responses."""

    tokens: dict[ResponseKey, int] = field(default_factory=dict)
    nats_by_prompt: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens_by_prompt: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


class HeldoutFigures(TypedDict):
    """Held-out negative log-likelihood, in nats per token, by the name of the scoring."""

    heldout_nll: dict[str, float]
    heldout_nll_stderr: dict[str, float | None]
    heldout_nll_change: dict[str, EstimateFigures]
    """Against the first scoring."""
    heldout_prompts: int
    heldout_responses: int
    heldout_tokens: int


def heldout_figures(scores: Mapping[str, Iterable[ScoredResponse]]) -> HeldoutFigures:
    """Compute nats per token over all tokens of the held-out responses, end of turn included.

    Changes are paired response by response, which removes the differences in difficulty between
    responses; their standard error is therefore far below that of the values themselves.

    Args:
        scores: scored responses by the student's stage of training; the others are compared with
            the first.  Responses of the training split are skipped.

    Raises:
        UserError: no response is held out, or two scorings differ in responses or tokens.
    """
    collected = {name: _collect(records) for name, records in scores.items()}
    first_name, first = next(iter(collected.items()))
    if not first.tokens:
        raise UserError(f"heldout_scores.{first_name}: holds no held-out response")
    figures: HeldoutFigures = {
        "heldout_nll": {},
        "heldout_nll_stderr": {},
        "heldout_nll_change": {},
        "heldout_prompts": len(first.tokens_by_prompt),
        "heldout_responses": len(first.tokens),
        "heldout_tokens": sum(first.tokens.values()),
    }
    prompts, counts = list(first.tokens_by_prompt), list(first.tokens_by_prompt.values())
    for name, scored in collected.items():
        if scored.tokens != first.tokens:
            raise UserError(
                f"heldout_scores.{name}: scores other responses or tokens than {first_name}"
            )
        nats = [scored.nats_by_prompt[p] for p in prompts]
        change = [
            scored.nats_by_prompt[prompt] - first.nats_by_prompt[prompt] for prompt in prompts
        ]
        nll = ratio_estimate(nats, counts)
        figures["heldout_nll"][name] = nll.mean
        figures["heldout_nll_stderr"][name] = nll.stderr
        if name != first_name:
            figures["heldout_nll_change"][name] = ratio_estimate(change, counts).figures
    return figures


def _collect(records: Iterable[ScoredResponse]) -> _Scores:
    scores = _Scores()
    for record in records:
        prompt, logprobs = record.prompt, record.student_tokens.logprobs
        if prompt.split == "heldout":
            scores.tokens[record.key] = len(logprobs)
            scores.nats_by_prompt[prompt.prompt_id] -= sum(logprobs)
            scores.tokens_by_prompt[prompt.prompt_id] += len(logprobs)
    return scores
