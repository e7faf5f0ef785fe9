"""How the rows of each benchmark are published, read into questions.

- AIME: ``problem``/``answer`` (MathArena, math-ai, HuggingFaceH4), ``Problem``/``Answer``
  (Maxwell-Jia), ``question``/``answer`` (opencompass), or ``problem``/``solution`` whose last
  ``\\boxed{}`` is the answer (math-ai/aime24);
- GPQA: ``gpqa_diamond.csv`` as its authors publish it;
- GSM8K: ``question``/``answer``, the answer after ``####``;
- MATH-500: ``problem``/``answer``/``unique_id``.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from megatron_dasd.benchmarks.questions import Question, id_of, last_boxed, text_of
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject
from megatron_dasd.records_io import numbered_rows, parse_line, record_files

_INCORRECT = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))
_LONGEST_FIELD = 1 << 20
"""Characters of a CSV field."""


def read_aime(row: Mapping[str, object], number: int) -> Question:
    """Read a question of AIME, whose answers are whole numbers from 0 to 999."""
    names = ("answer", "Answer", "expected_answer")
    if any(row.get(name) is not None for name in names):
        answer = text_of(row, *names)
    else:
        answer = last_boxed(text_of(row, "answer", "solution", "Solution")) or ""
    if not (answer.isascii() and answer.isdigit() and int(answer) <= 999):
        raise ValueError("field answer: expected a whole number from 0 to 999")
    return Question(
        question_id=id_of(row, number, ("id", "ID", "problem_idx", "problem_id")),
        text=text_of(row, "problem", "Problem", "question"),
        reference=str(int(answer)),
    )


def read_gpqa(row: Mapping[str, object], number: int) -> Question:
    """Read a question of GPQA; the right option comes first."""
    right = text_of(row, "Correct Answer")
    return Question(
        question_id=id_of(row, number, ("Record ID",)),
        text=text_of(row, "Question"),
        reference=right,
        options=(right, *(text_of(row, name) for name in _INCORRECT)),
    )


def read_gsm8k(row: Mapping[str, object], number: int) -> Question:
    """Read a question of GSM8K."""
    _, mark, answer = text_of(row, "answer").rpartition("####")
    if not mark or not answer.strip():
        raise ValueError("field answer: expected #### and the number at its end")
    return Question(
        question_id=str(number),
        text=text_of(row, "question"),
        reference=answer.strip().replace(",", ""),
    )


def read_math(row: Mapping[str, object], number: int) -> Question:
    """Read a question of MATH-500."""
    return Question(
        question_id=id_of(row, number, ("unique_id",)),
        text=text_of(row, "problem"),
        reference=text_of(row, "answer"),
    )


def published_rows(path: Path) -> Iterator[tuple[Path, int, JsonObject]]:
    """Yield the rows of a file, or of a folder's files, each with its file and number from 1.

    Raises:
        UserError: nothing can be read; says nothing of what a row holds.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such file; give your own copy of the benchmark, nothing is fetched"
        )
    tables = [path] if path.suffix == ".csv" else sorted(path.glob("*.csv"))
    if tables and len(tables) > 1:
        raise UserError(f"{path}: holds {len(tables)} CSV files; name the one that is meant")
    if tables:
        yield from _csv_rows(tables[0])
        return
    for file in record_files(path):
        for number, row in numbered_rows(file):
            try:
                yield file, number, parse_line(row) if isinstance(row, str) else row
            except ValueError as error:
                raise UserError(f"{file}: record {number}: {error}") from None


def _csv_rows(file: Path) -> Iterator[tuple[Path, int, JsonObject]]:
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), start=1):
                yield file, number, {str(name): value for name, value in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(f"{file}: not readable as CSV ({what})") from None
