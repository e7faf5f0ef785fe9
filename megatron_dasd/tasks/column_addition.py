"""Sums of two numbers of three digits, worked column by column from the right.

The task has a sub-skill of its own, the carry: a model that has only seen sums without carries
knows the form of an answer and not how to find it.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from megatron_dasd.config.sources import Carries, Style

NUM_DIGITS = 3
_PLACES = ("Units", "Tens", "Hundreds")
_PROBLEM = re.compile(rf"(\d{{{NUM_DIGITS}}})\+(\d{{{NUM_DIGITS}}})")
_STEP = re.compile(r"\d+(?:\+\d+)+=\d+")
_FILLER = "That was not hard. I went from right to left. Now I write the result."


@dataclass(frozen=True)
class Column:
    """One column of a sum: its two digits and the carry into it."""

    first: int
    second: int
    carry: int
    """0 or 1."""

    @property
    def total(self) -> int:
        """Sum of the digits and the carry."""
        return self.first + self.second + self.carry

    @property
    def step(self) -> str:
        """The column's equation, of the same width for all: e.g. ``7+5+0=12``, ``3+2+1=06``."""
        return f"{self.first}+{self.second}+{self.carry}={self.total:02}"


@dataclass(frozen=True)
class Sum:
    """A problem: two numbers of three digits."""

    first: int
    second: int

    @property
    def question(self) -> str:
        """The problem as a prompt, e.g. ``347+285``."""
        return f"{self.first}+{self.second}"

    @property
    def answer(self) -> str:
        """The sum in decimal digits."""
        return str(self.first + self.second)

    @property
    def columns(self) -> list[Column]:
        """From the units up."""
        columns: list[Column] = []
        carry = 0
        for place in range(NUM_DIGITS):
            first, second = (number // 10**place % 10 for number in (self.first, self.second))
            columns.append(Column(first, second, carry))
            carry = columns[-1].total // 10
        return columns


def read_sum(question: str) -> Sum | None:
    """Read a problem from its prompt; None when the prompt is not such a sum."""
    match = _PROBLEM.fullmatch(question)
    return Sum(int(match[1]), int(match[2])) if match else None


def draw_sums(rng: random.Random, carries: Carries) -> Iterator[Sum]:
    """Yield distinct problems without end, drawn with equal probability.

    Args:
        carries: ``none`` leaves out problems with a column whose sum exceeds 9.
    """
    low, high = 10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS - 1
    drawn = set()
    while True:
        problem = Sum(rng.randint(low, high), rng.randint(low, high))
        has_carry = any(column.total > 9 for column in problem.columns)
        if problem not in drawn and not (has_carry and carries == "none"):
            drawn.add(problem)
            yield problem


def _terse(problem: Sum) -> str:
    return "\n".join(column.step for column in problem.columns)


def _explained(problem: Sum) -> str:
    lines = [_terse(problem)]
    for place, column in zip(_PLACES, problem.columns, strict=True):
        carried = f"carry {column.total // 10}" if column.total > 9 else "no carry"
        lines.append(f"{place}: write {column.total % 10}, {carried}.")
    return "\n".join(lines)


def _wordy(problem: Sum) -> str:
    return f"{_terse(problem)}\n{_FILLER}"


STYLES: dict[Style, Callable[[Sum], str]] = {
    "terse": _terse,
    "explained": _explained,
    "wordy": _wordy,
}
"""By name, what writes a problem's chain of thought: the equations alone; then a sentence about
every digit and its carry; or sentences that say nothing of the problem."""


@dataclass(frozen=True)
class Step:
    """A piece of a chain of thought."""

    text: str
    right: bool | None
    """Whether it is the equation that the problem needs in its place; None: it is no equation."""


def check_steps(problem: Sum, thinking: str) -> list[Step]:
    """Check a chain of thought equation by equation.

    The n-th equation must be that of the n-th column, carry included.

    Returns:
        All of ``thinking`` in order, cut at the borders of its equations.
    """
    columns = problem.columns
    steps: list[Step] = []
    end = 0
    for number, match in enumerate(_STEP.finditer(thinking)):
        if match.start() > end:
            steps.append(Step(thinking[end : match.start()], None))
        needed = columns[number].step if number < len(columns) else None
        steps.append(Step(match.group(), match.group() == needed))
        end = match.end()
    return [*steps, Step(thinking[end:], None)] if end < len(thinking) else steps
