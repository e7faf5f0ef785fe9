"""Texts that the report shows: answers side by side, and a mixed-policy response."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypedDict

from megatron_dasd.benchmarks.asked import is_private
from megatron_dasd.config.evaluation import Report
from megatron_dasd.evaluation.accuracy import TEACHER
from megatron_dasd.records import FilteredResponse, Graded, Prompt
from megatron_dasd.records_io import read_records
from megatron_dasd.seeds import derive_seed
from megatron_dasd.tasks.column_addition import Step, check_steps, read_sum

NUM_SAMPLES = 4
_MOST_READ = 2000
"""Records searched for an example, so that it does not take a pass over all of them."""


class Answer(TypedDict):
    """A text that a model wrote for a prompt."""

    name: str
    verdict: str
    """Empty: it was not graded."""
    steps: list[Step]
    """The text in pieces, those that are steps of a known task checked."""


class Sample(TypedDict):
    """A held-out prompt with the answers to it."""

    domain: str
    prompt: str
    reference: str | None
    lost: bool
    """Whether the last student's answer is not right."""
    answers: list[Answer]
    """Of the teacher, and of the first and the last student."""


class MixedPolicyExample(TypedDict):
    """A response that the student began and the teacher continued."""

    prompt: str
    student: str
    """The student's prefix."""
    teacher: str
    """The rest."""


def side_by_side(settings: Report, inputs: Mapping[str, Path]) -> list[Sample]:
    """Draw held-out prompts by the seed, with the answers of the teacher and of students.

    Every domain has one prompt before any domain has a second one.  Where the last student has
    lost a prompt, one such is among them.
    """
    if settings.evaluate is None:
        return []
    taught = _teacher_outputs(inputs[next(iter(settings.heldout_scores.values()))])
    answers: dict[str, dict[str, Graded]] = {}
    for graded in read_records(inputs[settings.evaluate], Graded):
        shown = graded.sample == 0 and not is_private(graded.prompt)
        if shown and graded.prompt.prompt_id in taught:
            answers.setdefault(graded.prompt.prompt_id, {})[graded.model] = graded
    drawn = sorted(answers, key=lambda name: derive_seed(settings.seed, "side by side", name))
    rows = [_sample(answers[prompt_id], taught[prompt_id]) for prompt_id in drawn]
    chosen = spread(rows, NUM_SAMPLES)
    lost = [row for row in rows if row["lost"]]
    if lost and not any(row["lost"] for row in chosen):
        chosen[-1] = lost[0]
    return chosen


def _sample(by_model: Mapping[str, Graded], taught: str) -> Sample:
    """Show the answers to one prompt.

    Args:
        by_model: in the order in which the models were evaluated.
        taught: what the teacher wrote for training, shown where it was not evaluated.
    """
    students = [graded for name, graded in by_model.items() if name != TEACHER]
    prompt = next(iter(by_model.values())).prompt
    teacher = by_model.get(TEACHER)
    own = _graded(teacher) if teacher else _shown(TEACHER, "", prompt, taught)
    shown = [students[0], students[-1]] if len(students) > 1 else students
    return {
        "domain": prompt.domain,
        "prompt": prompt.messages[-1].content,
        "reference": prompt.reference_answer,
        "lost": bool(students) and students[-1].score < 1.0,
        "answers": [own, *map(_graded, shown)],
    }


def _graded(graded: Graded) -> Answer:
    partly = f"score {graded.score:.2f}"
    found = {0.0: "wrong", 1.0: "right"}.get(graded.score, partly)
    return _shown(graded.model, found, graded.prompt, graded.text)


def _shown(name: str, found: str, prompt: Prompt, text: str) -> Answer:
    problem = read_sum(prompt.messages[-1].content)
    steps = check_steps(problem, text) if problem else [Step(text, None)]
    return {"name": name, "verdict": found, "steps": steps}


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
