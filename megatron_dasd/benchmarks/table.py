"""The benchmarks, a row each: their layout, their grader, and the parameters of the report.

Sampling is the report's (METHOD: evaluation): temperature 1.0, top-p 1.0, 64 answers a question, at
most 102,400 new tokens for AIME and 81,920 for GPQA-Diamond and LiveCodeBench.  The report does not
measure GSM8K and MATH-500; they have AIME's limit.  The instructions are this program's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

from megatron_dasd.benchmarks import layouts, livecodebench
from megatron_dasd.benchmarks.questions import Question
from megatron_dasd.config.benchmarks import BenchmarkName
from megatron_dasd.config.registry import Registry

NUM_SAMPLES = 64
"""Answers to each question."""
_BOXED = "Reason step by step, and put your final answer within \\boxed{}."
_LETTER = "Reason step by step, and put the letter of the right option within \\boxed{}."
PROGRAM = (
    "Write a Python program that solves the problem. It reads its input from standard input and "
    "prints its output. Give the whole program in one ```python code block."
)
FUNCTION = (
    "Write Python code that solves the problem and begins as follows. Give the whole code in one "
    "```python code block."
)
"""Before the head of the function."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One row of the table."""

    name: str
    title: str
    read: Callable[[Mapping[str, object], int], Question] | None
    """Read a published row and its number from 1; raises ValueError.  None: by settings."""
    grader: str
    instruction: str
    """What is asked of a model behind the question."""
    max_new_tokens: int
    """Longest answer, in tokens of the model that writes it."""
    num_questions: int | None = None
    """How many there are in the whole benchmark; None: it depends on the settings."""
    is_private: bool = False
    """Whether its questions are shown nowhere, as their authors ask for."""


def _aime(year: int) -> Benchmark:
    return Benchmark(
        name=f"aime{year}",
        title=f"AIME{year}",
        read=layouts.read_aime,
        grader="math",
        instruction=_BOXED,
        max_new_tokens=102_400,
        num_questions=30,
    )


def _livecodebench(release: str) -> Benchmark:
    return Benchmark(
        name=f"livecodebench_{release}",
        title=f"LiveCodeBench {release}",
        read=livecodebench.read_question,
        grader="code",
        instruction=PROGRAM,
        max_new_tokens=81_920,
    )


BENCHMARKS = Registry(
    "benchmark",
    [
        _aime(24),
        _aime(25),
        _aime(26),
        Benchmark(
            name="gpqa_diamond",
            title="GPQA-Diamond",
            read=layouts.read_gpqa,
            grader="choice",
            instruction=_LETTER,
            max_new_tokens=81_920,
            num_questions=198,
            is_private=True,
        ),
        _livecodebench("v5"),
        _livecodebench("v6"),
        Benchmark(
            name="gsm8k",
            title="GSM8K",
            read=layouts.read_gsm8k,
            grader="math",
            instruction=_BOXED,
            max_new_tokens=102_400,
            num_questions=1319,
        ),
        Benchmark(
            name="math_500",
            title="MATH-500",
            read=layouts.read_math,
            grader="math",
            instruction=_BOXED,
            max_new_tokens=102_400,
            num_questions=500,
        ),
        Benchmark(
            name="plain",
            title="questions",
            read=None,
            grader="math",
            instruction=_BOXED,
            max_new_tokens=102_400,
        ),
    ],
    get_args(BenchmarkName),
)
