"""Stage evaluate: the models answer benchmarks, or held-out prompts with a reference answer.

The work is divided into parts of one model and one batch of answers.  All models answer with the
same random draws, so that their difference is measured prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.benchmarks.asked import prompt_of, read_questions, window_of
from megatron_dasd.benchmarks.table import BENCHMARKS, NUM_SAMPLES
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.engines.base import Failure, Generation, GenerationRequest, Meter
from megatron_dasd.engines.open import open_engine
from megatron_dasd.engines.parts import BarMeter
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.accuracy import accuracies, verdict
from megatron_dasd.evaluation.benchmark_page import write_page
from megatron_dasd.evaluation.by_benchmark import benchmark_figures
from megatron_dasd.evaluation.code_answers import KeptTests, TestsOf, own_tests
from megatron_dasd.evaluation.graders import (
    Grade,
    close_workers,
    find_grader,
    grade_all,
)
from megatron_dasd.manifests import model_folder
from megatron_dasd.printing import say
from megatron_dasd.progress import progress
from megatron_dasd.prompt_ids import read_prompts
from megatron_dasd.records import Graded, Prompt
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.chat import REFUSED, all_turns, render_or_refuse
from megatron_dasd.text.encoding import load_tokenizer

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

Task = tuple[Prompt, int]
"""A prompt and the number of the sample."""
Answer = Generation | Failure | str
"""What a model wrote, why no server answered well, or why the chat template refuses the prompt."""


def run(settings: Evaluate, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, object]:
    """Generate, grade and write parts of :class:`Graded`; the figures are accuracies.

    With servers, only the model that they run is evaluated.

    Raises:
        UserError: no held-out prompt carries a reference answer, or its grader is unknown.
    """
    aside = SetAside(settings.on_malformed)
    tests = KeptTests(folder.scratch("tests"))
    prompts = _prompts(settings, inputs, aside, tests)
    for prompt in prompts:
        find_grader(prompt)  # reports a bad prompt before any answer is generated
    num_samples = settings.num_samples or (NUM_SAMPLES if settings.benchmarks else 1)
    tasks = [(prompt, sample) for prompt in prompts for sample in range(num_samples)]
    batches = list(batched(tasks, settings.engine.batch_size))
    sizes = [len(batch) for _ in settings.models for batch in batches]
    folder.expect(len(sizes))
    done = sum(size for index, size in enumerate(sizes) if folder.has_part(index))
    with progress("evaluating", sum(sizes), "answers", done) as bar:
        for number, (name, reference) in enumerate(settings.models.items()):
            parts = dict(enumerate(batches, start=number * len(batches)))
            missing = {index: part for index, part in parts.items() if not folder.has_part(index)}
            meter = BarMeter(bar)
            for index, answers in _answer(
                name, inputs[reference], missing, settings, meter, folder
            ):
                part = aside if index == 0 else SetAside()  # counts skipped prompts once
                graded = _grade_all(name, parts[index], answers, part, tests)
                part.counts.update(meter.take_faults())
                folder.write_part(index, Graded, graded, part.counts, part.rows)
    close_workers()
    folder.end_of_share()
    figures = accuracies(read_records(folder.path, Graded))
    found: dict[str, object] = {"models": figures, "base": next(iter(settings.models))}
    if settings.benchmarks:
        by_benchmark = benchmark_figures(read_records(folder.path, Graded))
        write_page(settings, folder, by_benchmark)
        found["benchmarks"] = {
            name: {"title": one["title"], "models": one["models"], "to_first": one["to_first"]}
            for name, one in by_benchmark.items()
        }
    return found


def _prompts(
    settings: Evaluate, inputs: Mapping[str, Path], aside: SetAside, tests: KeptTests
) -> list[Prompt]:
    """The questions to ask; the tests of those that want programs are put into the store.

    Raises:
        UserError: there are none, or one is malformed.
    """
    if settings.prompts is not None:
        path = inputs[settings.prompts]
        prompts = list(_graded_prompts(path, aside))
        if not prompts:
            raise UserError(f"{path}: no held-out prompt carries a grader")
        return prompts
    return [
        prompt
        for name, reference in settings.benchmarks.items()
        for prompt in _benchmark_prompts(name, inputs[reference], settings, tests)
    ]


def _benchmark_prompts(
    name: str, path: Path, settings: Evaluate, tests: KeptTests
) -> Iterator[Prompt]:
    benchmark, count = BENCHMARKS[name], 0
    window = window_of(name, settings.livecodebench)
    for question in read_questions(name, path, settings.plain, window):
        prompt = prompt_of(
            benchmark, question, settings.seed, settings.plain, settings.livecodebench
        )
        if question.tests is not None:
            try:
                tests.add(prompt.prompt_id, question.tests())
            except ValueError as error:
                raise UserError(f"{path}: question {question.question_id}: {error}") from None
        count += 1
        yield prompt
    expected = benchmark.num_questions
    if expected is not None and count != expected:
        say(f"    {benchmark.title}: {path} holds {count} questions of the {expected} published")


def _graded_prompts(path: Path, aside: SetAside) -> Iterable[Prompt]:
    for prompt in read_prompts(path, aside.malformed):
        if prompt.split == "heldout" and prompt.grader is not None:
            yield prompt
        else:
            why = "no grader" if prompt.split == "heldout" else prompt.split
            aside.counts[f"skipped: {why}"] += 1


def _answer(
    name: str,
    path: Path,
    parts: Mapping[int, Sequence[Task]],
    settings: Evaluate,
    meter: Meter,
    stage: StageFolder,
) -> Iterator[tuple[int, list[Answer]]]:
    """Generate a model's answers to the tasks of each part."""
    if not parts:
        return
    folder = model_folder(path)
    engine, tokenizer = open_engine(settings.engine, folder, name), load_tokenizer(folder)
    open_parts: dict[int, list[GenerationRequest | str]] = {}

    def requests() -> Iterator[tuple[int, list[GenerationRequest]]]:
        for index, tasks in parts.items():
            if stage.claim(index):
                open_parts[index] = [_request(task, tokenizer, settings) for task in tasks]
                asked = [one for one in open_parts[index] if isinstance(one, GenerationRequest)]
                yield index, asked

    for index, given in engine.generate(requests(), meter):
        answers = iter(given)
        yield (
            index,
            [one if isinstance(one, str) else next(answers) for one in open_parts.pop(index)],
        )


def _grade_all(
    name: str,
    tasks: Sequence[Task],
    answers: Sequence[Answer],
    aside: SetAside,
    tests_of: TestsOf = own_tests,
) -> list[Graded]:
    """Grade what a model wrote; tasks without an answer are set aside.

    An answer at which its grader fails is wrong; the counts say why, as ``grader: timeout``.
    """
    written: list[tuple[Task, Generation]] = []
    for task, answer in zip(tasks, answers, strict=True):
        if isinstance(answer, Failure):
            aside.drop(f"server: {answer.kind}", task[0], answer.detail)
        elif isinstance(answer, str):
            aside.drop(REFUSED, task[0], answer)
        else:
            written.append((task, answer))
    grades = grade_all([(task[0], answer.text) for task, answer in written], tests_of)
    graded = [
        _graded(name, task, answer, grade)
        for (task, answer), grade in zip(written, grades, strict=True)
    ]
    aside.counts.update(verdict(one) for one in graded)
    aside.counts.update(f"grader: {grade.failure}" for grade in grades if grade.failure)
    return graded


def _request(
    task: Task, tokenizer: PreTrainedTokenizerBase, settings: Evaluate
) -> GenerationRequest | str:
    """What the model is asked, or why its chat template refuses it."""
    prompt, sample = task
    turns = all_turns(prompt.messages, settings.system_prompt)
    variables = settings.chat_template_kwargs
    rendered, refused = render_or_refuse(tokenizer, turns, prompt.tools, variables)
    return refused or GenerationRequest(
        prompt=rendered,
        turns=turns,
        tools=prompt.tools,
        max_new_tokens=settings.max_new_tokens or BENCHMARKS[prompt.domain].max_new_tokens,
        seed=derive_seed(settings.seed, "evaluate", prompt.prompt_id, sample),
        temperature=settings.temperature,
        top_p=settings.top_p,
    )


def _graded(name: str, task: Task, generation: Generation, grade: Grade) -> Graded:
    prompt, sample = task
    return Graded(
        prompt=prompt,
        model=name,
        sample=sample,
        text=generation.text,
        score=grade.score,
        num_tokens=len(generation.tokens.token_ids),
        finish_reason=generation.finish_reason,
        failure=grade.failure,
    )
