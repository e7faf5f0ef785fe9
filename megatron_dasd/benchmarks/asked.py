"""The questions of the user's copy of a benchmark, and the prompts that ask them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from megatron_dasd.benchmarks.layouts import published_rows
from megatron_dasd.benchmarks.questions import Question, id_of, text_of
from megatron_dasd.benchmarks.table import BENCHMARKS, FUNCTION, Benchmark
from megatron_dasd.config.benchmarks import LiveCodeBench, PlainQuestions, Window
from megatron_dasd.errors import UserError
from megatron_dasd.records import Message, Prompt
from megatron_dasd.seeds import derive_seed

LETTERS = "ABCD"
PLAIN, LIVECODEBENCH = PlainQuestions(), LiveCodeBench()
"""The settings' defaults."""


def read_questions(
    name: str, path: Path, plain: PlainQuestions = PLAIN, window: Window | None = None
) -> Iterator[Question]:
    """Yield the questions of a file, or of a folder's files.

    Args:
        name: the benchmark's, of the table.
        path: the user's own copy.
        plain: how the file of ``plain`` is read.
        window: questions that were published on other days are left out.

    Raises:
        UserError: the file cannot be read, a row is not as the benchmark publishes its rows, or no
            question is left; it says nothing of what a row holds.
    """
    benchmark = BENCHMARKS[name]
    read = benchmark.read or partial(_read_plain, plain)
    seen: dict[str, str] = {}
    kept = 0
    for file, number, row in published_rows(path):
        try:
            question = read(row, number)
        except ValueError as error:
            raise UserError(
                f"{file}: record {number}: {error}: not as {benchmark.title} is published"
            ) from None
        if question.question_id in seen:  # two contests of one year number their questions alike
            question = replace(question, question_id=f"{file.stem}-{number}")
        if question.question_id in seen:
            raise UserError(
                f"{file}: record {number}: the id of {seen[question.question_id]} again"
            )
        seen[question.question_id] = f"record {number} of {file.name}"
        day = question.published
        if window is None or (day is not None and window.first <= day <= window.last):
            kept += 1
            yield question
    if not kept:
        when = f" from {window.first} to {window.last}" if window else ""
        raise UserError(f"{path}: holds no question of {benchmark.title}{when}")


def window_of(name: str, settings: LiveCodeBench) -> Window | None:
    """Days of the questions of a benchmark that are asked; None: all."""
    return {"livecodebench_v5": settings.v5, "livecodebench_v6": settings.v6}.get(name)


def prompt_of(
    benchmark: Benchmark,
    question: Question,
    seed: int | None,
    plain: PlainQuestions = PLAIN,
    livecodebench: LiveCodeBench = LIVECODEBENCH,
) -> Prompt:
    """Make the prompt of a question; its options stand in an order drawn by the seed.

    The prompt of a program holds no tests: they are too large to go with every answer.
    """
    text, reference = question.text, question.reference
    grader = plain.grader if benchmark.name == "plain" else benchmark.grader
    instruction, metadata = benchmark.instruction, None
    if question.options:
        order = sorted(
            range(len(question.options)),
            key=lambda number: derive_seed(seed, "options", question.question_id, number),
        )
        listed = (f"({LETTERS[at]}) {question.options[of]}" for at, of in enumerate(order))
        text = "\n".join([f"{text}\n", *listed])
        reference = LETTERS[order.index(0)]
    if grader == "code":
        metadata = json.dumps({"seconds": livecodebench.seconds_per_test})
        if question.starter_code:
            instruction = f"{FUNCTION}\n\n```python\n{question.starter_code}\n```"
    return Prompt(
        prompt_id=f"{benchmark.name}/{question.question_id}",
        messages=[Message(role="user", content=f"{text}\n\n{instruction}")],
        domain=benchmark.name,
        split="heldout",
        reference_answer=reference,
        grader=grader,
        grader_metadata=metadata,
    )


def is_private(prompt: Prompt) -> bool:
    """Whether a prompt is a question that is shown nowhere."""
    return any(one.is_private and one.name == prompt.domain for one in BENCHMARKS)


def _read_plain(plain: PlainQuestions, row: dict[str, object], number: int) -> Question:
    return Question(
        question_id=id_of(row, number, ("id", "question_id", "prompt_id")),
        text=text_of(row, plain.question),
        reference=text_of(row, plain.answer),
    )
