"""Programs of answers, graded against tests: those of a benchmark, or those that a prompt holds."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import msgspec

from megatron_dasd.benchmarks.code_tests import CodeTests, tests_of
from megatron_dasd.containment.pool import Pool
from megatron_dasd.containment.protocol import Failure
from megatron_dasd.evaluation.grading import programs
from megatron_dasd.records import Prompt

TestsOf = Callable[[Prompt], CodeTests]
"""Finds the tests of a prompt; raises ValueError."""


class KeptTests:
    """Tests on the disk, by prompt: all of a benchmark's together may be larger than memory."""

    def __init__(self, folder: Path) -> None:
        """Begin with an empty folder."""
        self._folder = folder
        self._names: dict[str, str] = {}
        self._read = lru_cache(maxsize=2)(self._read_file)

    def add(self, prompt_id: str, tests: CodeTests) -> None:
        """Keep the tests of a prompt."""
        name = f"{len(self._names):05d}"
        body = json.dumps(asdict(tests)).encode()
        (self._folder / name).write_bytes(zlib.compress(body, level=1))
        self._names[prompt_id] = name

    def __call__(self, prompt: Prompt) -> CodeTests:
        """The tests of a prompt: those that were kept, else those in its ``grader_metadata``.

        Raises:
            ValueError: there are none.
        """
        if prompt.prompt_id in self._names:
            return self._read(self._names[prompt.prompt_id])
        return own_tests(prompt)

    def _read_file(self, name: str) -> CodeTests:
        body = zlib.decompress((self._folder / name).read_bytes())
        return msgspec.json.decode(body, type=CodeTests)


def own_tests(prompt: Prompt) -> CodeTests:
    """The tests that a prompt's ``grader_metadata`` holds.

    Raises:
        ValueError: it holds none, or they are malformed.
    """
    metadata = json.loads(prompt.grader_metadata or "{}")
    return tests_of(metadata.get("tests", []), 0, metadata.get("func_name", ""))


def run_programs(
    pool: Pool, asked: Sequence[tuple[CodeTests, str, Mapping[str, object]]]
) -> list[str | None]:
    """Run the programs of answers on their tests.

    The tests that a question shows come first; what fails them is not run on the others.

    Args:
        asked: tests, answer and the prompt's ``grader_metadata``, for each answer.

    Returns:
        Why each does not pass: ``no code``, ``wrong output``, ``time limit``, ``error`` or the
        worker's failure; None: it passes.
    """
    codes = [programs.code_of(answer) for _, answer, _ in asked]
    failures = [None if code is not None else "no code" for code in codes]
    for shown in (True, False):
        numbers, ranges, requests = [], [], []
        for number, (tests, _, metadata) in enumerate(asked):
            middle = min(tests.num_public, len(tests.inputs))
            first, last = (0, middle) if shown else (middle, len(tests.inputs))
            code = codes[number]
            if failures[number] is None and code is not None and first < last:
                settings = msgspec.convert(metadata, programs.CodeSettings)
                body = programs.encode(code, tests, first, last, settings.seconds)
                numbers.append(number)
                ranges.append((first, last))
                requests.append(("code", body))
        for number, span, outcome in zip(numbers, ranges, pool.run(requests), strict=True):
            failures[number] = _failure(outcome, asked[number][0], *span)
    return failures


def _failure(outcome: bytes | Failure, tests: CodeTests, first: int, last: int) -> str | None:
    if isinstance(outcome, Failure):
        return outcome.kind
    try:
        return programs.first_failure(outcome, tests, first, last)
    except ValueError:
        return "error"
