"""Answers that are code, given to every grader that evaluates some: nothing of it takes effect."""

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from reasoning_gym.factory import DATASETS

from megatron_dasd.config.sources import ReasoningGymTask
from megatron_dasd.containment import walls
from megatron_dasd.containment.walls import Walls
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation import graders
from megatron_dasd.evaluation.graders import Grade, close_workers, find_grader, grade_all
from megatron_dasd.evaluation.grading import contained
from megatron_dasd.records import Message, Prompt
from megatron_dasd.sources.prompts import task_prompts
from tests.containment.walls import WALLS, walls_here
from tests.sampled import left_out

UNGRADED = {"composite"}
"""Generators that cannot be graded by themselves."""
EVALUATING = ["countdown", "spiral_matrix", "intermediate_integration"]
"""Some whose graders hand the answer to eval, or to SymPy's parser."""
SHAPES = [
    "{}",
    "[{}]",
    "[[{}]]",
    "[str({})]",
    '{{"a": {}}}',
    "${}$",
    "\\boxed{{{}}}",
    "f'{{{}}}'",
    "x + {}",
]
EFFECTS = [
    "__import__('os').system('touch {file}')",
    "open('{file}', 'w').write(str(__import__('os').environ))",
    "__import__('os').kill({host}, 9)",
    "exit()",
    "(lambda: __import__('os')._exit(0))()",
    "[0 for _ in iter(lambda: __import__('os').fork(), -1)]",
]
HEAVY = ["9**9**9**9", "'x' * 10**11", "sum(iter(int, 1))"]
TEXTS = [
    "(" * 100_000,
    "[" * 100_000 + "]" * 100_000,
    "\0",
    "\ud800",
    "\x1b]0;x\a",
    "9" * 10_000,
    "1e999999999",
    "\\frac{" * 10_000,
    "^" * 10_000,
]
HUGE = "1" * 100_000_000
SECONDS = 5.0


def in_form(answer: str) -> str:
    return f"<think>\nx\n</think>\n\n{answer}"


def simple(grader: str, reference: str) -> Prompt:
    messages = [Message(role="user", content="q")]
    return Prompt(prompt_id="p", messages=messages, grader=grader, reference_answer=reference)


def prompt_of(generator: str) -> Prompt:
    [prompt] = task_prompts(ReasoningGymTask(generator=generator, size=1), number=0, seed=1)
    # some generators name no answer of their own, and their prompts would be refused
    return replace(prompt, reference_answer=prompt.reference_answer or "none")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Walls], None]]:
    """Grade behind other walls, until the test ends."""

    def use_them(given: Walls) -> None:
        close_workers()
        graders._pool.cache_clear()
        monkeypatch.setattr(graders, "find_walls", lambda: given)

    yield use_them
    close_workers()
    graders._pool.cache_clear()


def hostile_texts(
    prompts: list[Prompt], folder: Path, shapes: list[str]
) -> list[tuple[Prompt, str]]:
    """Every shape of every effect for each prompt; a file of each says that it ran."""
    texts = []
    for prompt in prompts:
        for shape in shapes:
            for number, effect in enumerate(EFFECTS):
                file = folder / f"{(prompt.grader or '').replace(':', '-')}-{number}"
                code = effect.replace("{file}", str(file)).replace("{host}", str(os.getpid()))
                texts.append((prompt, in_form(shape.format(code))))
    return texts


def check_held(texts: list[tuple[Prompt, str]], folder: Path) -> None:
    grades = grade_all(texts)
    assert list(folder.iterdir()) == []
    for (prompt, text), grade in zip(texts, grades, strict=True):
        # game_of_life_halting takes everything but "True" for False, and may be right in that
        assert 0.0 <= grade.score <= 1.0, (prompt.grader, text)


@pytest.mark.parametrize("name", [name if name == WALLS[0] else left_out(name) for name in WALLS])
def test_hostile_answers(
    name: str, use: Callable[[Walls], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(walls_here(name))
    monkeypatch.setenv("API_KEY", "key")
    tmp_path.chmod(0o777)  # own user or not, nothing may be written there
    others = random.Random(0).sample(sorted({*DATASETS} - UNGRADED), 2)
    prompts = [prompt_of(generator) for generator in [*EVALUATING, *others]]
    prompts += [simple("math", "1/2"), simple("choice", "B")]
    check_held(hostile_texts(prompts, tmp_path, SHAPES[:2]), tmp_path)
    check_held([(prompt, in_form(text)) for prompt in prompts for text in TEXTS], tmp_path)


@pytest.mark.parametrize("name", WALLS)
@pytest.mark.parametrize("answer", [HEAVY[0], HUGE], ids=["a large number", "100 MB"])
def test_an_answer_without_end(name: str, answer: str, use: Callable[[Walls], None]) -> None:
    use(walls_here(name))
    prompt = prompt_of("countdown")
    grade = find_grader(prompt)
    started = time.monotonic()
    assert grade(in_form(answer)) < 1.0
    # the worker is killed at SECONDS; the rest is for a machine that has other work to do
    assert time.monotonic() - started < 5 * SECONDS
    assert prompt.reference_answer is not None
    assert grade(in_form(prompt.reference_answer)) == 1.0


def test_an_answers_own_failure_is_named() -> None:
    prompt = prompt_of("countdown")
    endless, ended, fine = (
        grade_all([(prompt, in_form(answer))])[0]
        for answer in ("9**9**9**9", "__import__('os')._exit(0)", prompt.reference_answer or "")
    )
    assert endless == Grade(0.0, "timeout")
    assert ended == Grade(0.0, "died")
    assert fine == Grade(1.0)


def some_generators(seed: int) -> list[str]:
    """A sample; those left out are tried by ``make test-all``."""
    return random.Random(seed).sample(sorted({*DATASETS} - UNGRADED), 30)


@pytest.mark.slow
def test_hostile_answers_to_many_generators(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    prompts = [prompt_of(generator) for generator in some_generators(1)]
    check_held(hostile_texts(prompts, tmp_path, SHAPES[:2]), tmp_path)


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", WALLS)
@pytest.mark.parametrize("generator", sorted({*DATASETS} - UNGRADED))
def test_every_hostile_answer_to_every_generator(
    name: str, generator: str, use: Callable[[Walls], None], tmp_path: Path
) -> None:
    use(walls_here(name))
    tmp_path.chmod(0o777)
    prompt = prompt_of(generator)
    check_held(hostile_texts([prompt], tmp_path, SHAPES), tmp_path)
    texts = [shape.format(heavy) for heavy in HEAVY for shape in SHAPES]
    check_held([(prompt, in_form(text)) for text in (*texts, *TEXTS)], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", WALLS)
def test_walls_do_not_change_a_grade(name: str, use: Callable[[Walls], None]) -> None:
    use(walls_here(name))
    texts = []
    for generator in some_generators(2):
        prompt = prompt_of(generator)
        answers = [prompt.reference_answer or "", "x + 1", "[1, 2]", "yes", "1\n2", '{"a": "b"}']
        texts += [(prompt, in_form(answer)) for answer in answers]
    grades = grade_all(texts)
    prepare = cache(contained.prepare)
    for (prompt, text), grade in zip(texts, grades, strict=True):
        assert grade.failure is None, (prompt.grader, text)
        question = graders._look_up(prompt)
        answer = graders.answer_of(text)
        if answer is not None:
            work = prepare(question.key)
            body = contained.encode(answer, question.reference, question.metadata)
            assert grade.score == contained.decode(work(body)), (prompt.grader, text)


def test_where_nothing_contains_only_harmless_graders_run(use: Callable[[Walls], None]) -> None:
    use(walls.limits_only())
    for prompt in (simple("math", "1/2"), prompt_of("countdown")):
        with pytest.raises(UserError, match="nothing here contains it: install bubblewrap"):
            find_grader(prompt)
    assert find_grader(simple("choice", "B"))(in_form("(B)")) == 1.0
    assert find_grader(simple("exact", "7"))(in_form("7.0")) == 1.0
