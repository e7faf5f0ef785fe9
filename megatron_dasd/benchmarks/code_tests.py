"""Tests of programs: inputs, the outputs that are expected, and how outputs are compared.

The expected outputs stay in the host: the process that runs a program is given inputs alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

TestKind = Literal["stdin", "functional"]


@dataclass(frozen=True, kw_only=True)
class CodeTests:
    """The tests of one question."""

    kind: TestKind
    """``stdin``: a program reads standard input and prints; ``functional``: a function is called
    with arguments, one JSON value a line, and returns what is expected as JSON."""
    function: str = ""
    """Name of the function, of a class ``Solution`` or of the module."""
    inputs: list[str]
    outputs: list[str]
    num_public: int = 0
    """The first tests, which the question shows."""

    def __post_init__(self) -> None:
        if not self.inputs or len(self.inputs) != len(self.outputs):
            raise ValueError("tests: expected as many inputs as outputs, and at least one")
        if (self.kind == "functional") != bool(self.function):
            raise ValueError("tests: a functional test needs the function's name, and only it does")


def tests_of(cases: object, num_public: int, function: str) -> CodeTests:
    """Make tests of rows ``{input, output, testtype}``, as LiveCodeBench publishes them.

    Raises:
        ValueError: a row lacks a field, or the rows are of two kinds.
    """
    if not isinstance(cases, list) or not all(isinstance(case, Mapping) for case in cases):
        raise ValueError("tests: expected a list of objects")
    columns: dict[str, list[str]] = {"input": [], "output": [], "testtype": []}
    for number, case in enumerate(cases, start=1):
        for name, column in columns.items():
            value = case.get(name)
            if not isinstance(value, str):
                raise ValueError(f"test {number}: field {name}: expected text")
            column.append(value)
    kinds = set(columns["testtype"])
    if kinds not in ({"stdin"}, {"functional"}):
        raise ValueError("tests: expected testtype stdin or functional, the same in all tests")
    functional = kinds == {"functional"}
    if functional and not function:
        raise ValueError("field metadata: func_name is missing, which functional tests need")
    return CodeTests(
        kind="functional" if functional else "stdin",
        function=function if functional else "",
        inputs=columns["input"],
        outputs=columns["output"],
        num_public=num_public,
    )


def is_expected(kind: TestKind, output: str, expected: str) -> bool:
    """Whether a program's output is the expected one.

    Of stdin, line by line without space at the ends; two lines of numbers are the same when the
    numbers are, written as decimals.  Of functions, JSON values, in which ``1`` is ``1.0``.
    """
    if kind == "functional":
        try:
            return bool(json.loads(output) == json.loads(expected))
        except (ValueError, RecursionError):
            return False
    given, wanted = _lines(output), _lines(expected)
    return len(given) == len(wanted) and all(map(_is_same_line, given, wanted))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _is_same_line(given: str, wanted: str) -> bool:
    if given == wanted:
        return True
    try:
        numbers = [[Decimal(word) for word in line.split()] for line in (given, wanted)]
        return numbers[0] == numbers[1]
    except InvalidOperation:
        return False
