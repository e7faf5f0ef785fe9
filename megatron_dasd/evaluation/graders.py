"""Graders: how right an answer is, between 0 and 1.

What is graded is the answer of the normalised form alone, what follows ``</think>``; a text that is
not in that form has not answered and scores 0, however right its words are.

Every grader but ``exact`` runs in a contained worker (:mod:`megatron_dasd.containment`).  A grader
is a :class:`~megatron_dasd.evaluation.grading.base.Grader` in a module of its own, listed in
:mod:`~megatron_dasd.evaluation.grading.registry`.
"""

import atexit
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import msgspec

from megatron_dasd.containment.pool import Pool, WorkerError
from megatron_dasd.containment.probe import find_walls
from megatron_dasd.containment.protocol import Failure
from megatron_dasd.containment.walls import INSTALL
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.code_answers import TestsOf, own_tests, run_programs
from megatron_dasd.evaluation.grading import contained, programs, registry
from megatron_dasd.evaluation.grading.base import Check, Grader
from megatron_dasd.evaluation.grading.exact import is_same as is_same
from megatron_dasd.records import Prompt
from megatron_dasd.text.thinking import NORMALISED, span_text, split_thinking

_LONGEST_ANSWER = 500_000
"""Characters; whatever they are, the request that carries them is within the worker's limit."""


@dataclass(frozen=True)
class Grade:
    """How right one text is."""

    score: float
    failure: str | None = None
    """Why the grader gave no verdict, which scores 0: ``timeout``, ``died``, ``error``, ``too
    long``; of a program, why it does not pass its tests: these, ``no code``, ``wrong output`` or
    ``time limit``; None: there is nothing to say."""


def answer_of(text: str) -> str | None:
    """The answer of a text in the normalised form; None when there is none."""
    try:
        spans = split_thinking(text, NORMALISED)
    except UnicodeEncodeError:  # half a surrogate pair, which has no bytes
        return None
    return span_text(text, spans[1]) if spans else None


def find_grader(prompt: Prompt) -> Callable[[str], float]:
    """The function that grades a text written for a prompt.

    Raises:
        UserError: the prompt asks for an unknown grader, lacks what its grader needs, or nothing
            on this machine contains the code that its grader evaluates.
        ModuleNotFoundError: the grader's package is not installed.
    """
    _look_up(prompt)
    return lambda text: grade_all([(prompt, text)])[0].score


def grade_all(texts: Sequence[tuple[Prompt, str]], tests_of: TestsOf = own_tests) -> list[Grade]:
    """Grade texts, each written for its prompt, on all contained workers at once.

    Args:
        texts: prompts and what was written for them.
        tests_of: finds the tests of a prompt whose answer is a program.

    Raises:
        UserError: as :func:`find_grader`; or no worker starts, or a program's tests are malformed.
    """
    grades = [Grade(0.0)] * len(texts)
    written: list[tuple[int, _Question, str]] = []
    numbers: list[int] = []
    requests: list[tuple[str, bytes]] = []
    for number, (prompt, text) in enumerate(texts):
        question = _look_up(prompt)
        answer = answer_of(text)
        if answer is None:
            continue
        if question.check is not None:
            score = question.check(answer, question.reference, question.metadata)
            grades[number] = Grade(score)
        elif len(answer) > _LONGEST_ANSWER:
            grades[number] = Grade(0.0, "too long")
        elif question.key == programs.CODE.name:
            written.append((number, question, answer))
        else:
            numbers.append(number)
            body = contained.encode(answer, question.reference, question.metadata)
            requests.append((question.key, body))
    if requests:
        try:
            outcomes = _pool(os.getpid()).run(requests)
        except WorkerError as error:
            raise UserError(f"graders: {error}") from None
        for number, outcome in zip(numbers, outcomes, strict=True):
            grades[number] = _grade(outcome)
    for number, grade in _grade_programs(texts, written, tests_of):
        grades[number] = grade
    return grades


def _grade_programs(
    texts: Sequence[tuple[Prompt, str]],
    written: "Sequence[tuple[int, _Question, str]]",
    tests_of: TestsOf,
) -> Iterator[tuple[int, Grade]]:
    """Grade the answers that are programs; yields them with their numbers."""
    if not written:
        return
    asked = []
    for number, question, answer in written:
        prompt = texts[number][0]
        try:
            asked.append((tests_of(prompt), answer, question.metadata))
        except ValueError as error:
            raise UserError(f"prompt {prompt.prompt_id}: {error}") from None
    try:
        failures = run_programs(_program_pool(os.getpid()), asked)
    except WorkerError as error:
        raise UserError(f"graders: {error}") from None
    for (number, _, _), failure in zip(written, failures, strict=True):
        yield number, Grade(float(failure is None), failure)


def close_workers() -> None:
    """End the contained workers; the next grade starts new ones."""
    for pool in (_pool, _program_pool):
        if pool.cache_info().currsize:
            pool(os.getpid()).close()
    _prepare.cache_clear()


@dataclass(frozen=True)
class _Question:
    """What is graded against, checked."""

    key: str
    reference: str
    metadata: Mapping[str, object]
    check: Check | None
    """Of a grader that runs in this process."""


def _look_up(prompt: Prompt) -> _Question:
    where = f"prompt {prompt.prompt_id}: field"
    if prompt.reference_answer is None:
        raise UserError(f"{where} reference_answer: is missing, the grader needs it")
    key = prompt.grader or ""
    try:
        grader, argument = registry.find(key)
        check = grader.make(argument) if grader.in_process else None
    except ValueError as error:
        raise UserError(f"{where} grader: {error}") from None
    metadata = _read_metadata(grader, prompt.grader_metadata, where)
    if check is None:
        _require(grader, where)
        refusal = _prepare(os.getpid(), key) if grader is not programs.CODE else None
        if refusal is not None:
            raise UserError(f"{where} grader: {refusal}")
    return _Question(key, prompt.reference_answer, metadata, check)


def _read_metadata(grader: Grader, text: str | None, where: str) -> dict[str, object]:
    try:
        metadata = json.loads(text or "{}")
        if not isinstance(metadata, dict):
            raise ValueError("is no JSON object")
        if grader.settings is not None:
            msgspec.convert(metadata, grader.settings)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} grader_metadata: bad JSON ({error})") from None
    except RecursionError:
        raise UserError(f"{where} grader_metadata: bad JSON (nested too deeply)") from None
    except ValueError as error:
        raise UserError(f"{where} grader_metadata: {error}") from None
    return metadata


def _require(grader: Grader, where: str) -> None:
    if grader.module is not None and find_spec(grader.module) is None:
        raise ModuleNotFoundError(f"No module named {grader.module!r}", name=grader.module)
    if grader.evaluates_code and not _pool(os.getpid()).walls.contains:
        raise UserError(
            f"{where} grader: {grader.name} evaluates what a model wrote, and nothing here "
            f"contains it: {INSTALL}"
        )


@cache
def _prepare(process: int, key: str) -> str | None:
    """Let a worker of this process get ready for a grader: None, or why it refuses."""
    try:
        failure = _pool(process).prepare(key)
    except WorkerError as error:
        raise UserError(f"graders: {error}") from None
    return failure.detail if failure else None


@cache
def _program_pool(process: int) -> Pool:
    """The workers of a process that run programs."""
    pool = Pool(programs.TASK, find_walls(), programs.LIMITS)
    atexit.register(pool.close)
    return pool


@cache
def _pool(process: int) -> Pool:
    """The workers of a process; a forked process has none of its parent's."""
    pool = Pool(contained.TASK, find_walls())
    atexit.register(pool.close)
    return pool


def _grade(outcome: bytes | Failure) -> Grade:
    if isinstance(outcome, Failure):
        return Grade(0.0, outcome.kind)
    try:
        return Grade(contained.decode(outcome))
    except (ValueError, RecursionError):  # hostile code can say anything of its own answer
        return Grade(0.0, "error")
