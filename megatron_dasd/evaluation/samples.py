"""Texts that the report shows: answers side by side, and a mixed-policy response."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypedDict

from megatron_dasd.config.evaluation import Report
from megatron_dasd.records import FilteredResponse, Graded
from megatron_dasd.records_io import read_records

NUM_SAMPLES = 4
_MOST_READ = 2000
"""Records searched for an example, so that it does not take a pass over all of them."""


class Sample(TypedDict):
    """A held-out prompt with the answers to it."""

    domain: str
    prompt: str
    reference: str | None
    teacher: str
    """The teacher's response."""
    answers: list[Graded]
    """Of the first and the last student."""


class MixedPolicyExample(TypedDict):
    """A response that the student began and the teacher continued."""

    prompt: str
    student: str
    """The student's prefix."""
    teacher: str
    """The rest."""


def side_by_side(settings: Report, inputs: Mapping[str, Path]) -> list[Sample]:
    """Choose held-out prompts, with the teacher's response and students' answers.

    Every domain has one prompt before any domain has a second one.
    """
    if settings.evaluate is None:
        return []
    taught = _teacher_outputs(inputs[next(iter(settings.heldout_scores.values()))])
    answers: dict[str, list[Graded]] = {}
    for graded in read_records(inputs[settings.evaluate], Graded):
        if graded.sample == 0 and graded.prompt.prompt_id in taught:
            answers.setdefault(graded.prompt.prompt_id, []).append(graded)
    rows: list[Sample] = [
        {
            "domain": given[0].prompt.domain,
            "prompt": given[0].prompt.messages[-1].content,
            "reference": given[0].prompt.reference_answer,
            "teacher": taught[prompt_id],
            "answers": [given[0], given[-1]] if len(given) > 1 else given,
        }
        for prompt_id, given in answers.items()
    ]
    return spread(rows, NUM_SAMPLES)


def spread(rows: Sequence[Sample], number: int) -> list[Sample]:
    """Choose rows so that every domain has one before any domain has another."""
    seen: dict[str, int] = {}
    turns = []
    for row in rows:
        turns.append(seen.get(row["domain"], 0))
        seen[row["domain"]] = turns[-1] + 1
    order = sorted(range(len(rows)), key=lambda index: turns[index])
    return [rows[index] for index in order[:number]]


def mixed_policy_example(filters: Sequence[Path]) -> MixedPolicyExample | None:
    """Find the first kept response that the student began and the teacher continued."""
    for path in filters:
        for response in islice(read_records(path, FilteredResponse), _MOST_READ):
            if response.student_prefix:
                return {
                    "prompt": response.prompt.messages[-1].content,
                    "student": response.student_prefix,
                    "teacher": response.output.removeprefix(response.student_prefix),
                }
    return None


def _teacher_outputs(scored: Path) -> dict[str, str]:
    """The teacher's first held-out response to each prompt."""
    found: dict[str, str] = {}
    for response in islice(read_records(scored, FilteredResponse), _MOST_READ):
        if response.prompt.split == "heldout":
            found.setdefault(response.prompt.prompt_id, response.output)
    return found
