"""Held-out negative log-likelihood of the student, before training and after each stage."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.statistics import ratio_estimate
from megatron_dasd.records import ResponseKey, ScoredResponse


@dataclass
class _Scores:
    """One scoring of the held-out responses."""

    tokens: dict[ResponseKey, int] = field(default_factory=dict)
    nats_by_prompt: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens_by_prompt: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


def heldout_figures(scores: Mapping[str, Iterable[ScoredResponse]]) -> dict[str, Any]:
    """Nats per token over all tokens of the held-out responses, end of turn included.

    Changes are paired, response by response, which takes out that some responses are harder than
    others; their standard error is therefore far below that of the values themselves.

    Args:
        scores: scored responses by what the student had learnt; the first is compared with.
            Responses of the training split are passed over.

    Returns:
        ``heldout_nll`` and ``heldout_nll_stderr`` by name, ``heldout_nll_change`` (``mean`` and
        ``stderr`` against the first), and the numbers of prompts, responses and tokens.

    Raises:
        UserError: nothing is held out, or two scorings are of other responses or tokens.
    """
    collected = {name: _collect(records) for name, records in scores.items()}
    first_name, first = next(iter(collected.items()))
    if not first.tokens:
        raise UserError(f"heldout_scores.{first_name}: holds no held-out response")
    figures: dict[str, Any] = {
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
            figures["heldout_nll_change"][name] = asdict(ratio_estimate(change, counts))
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
