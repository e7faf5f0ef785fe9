"""Made-up questions in the layouts in which the benchmarks are published."""

import base64
import csv
import json
import pickle
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, object]
GPQA_QUESTION = "Which of these made-up particles is the lightest of the whole made-up family?"


def jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def aime(path: Path) -> Path:
    """As MathArena publishes it."""
    return parquet(
        path,
        [
            {"problem_idx": 1, "problem": "How much is 20 times 2, and 1?", "answer": 41},
            {"problem_idx": 2, "problem": "How much is 5 times 5?", "answer": 25},
        ],
    )


def gpqa(path: Path) -> Path:
    """As its authors publish it, with columns that are not read."""
    row = {
        "Pre-Revision Question": "an earlier text",
        "Record ID": "rec1",
        "Question": GPQA_QUESTION,
        "Correct Answer": "the blue one",
        "Incorrect Answer 1": "the red one",
        "Incorrect Answer 2": "the green one",
        "Incorrect Answer 3": "the grey\none",
    }
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


def packed(tests: list[Row]) -> str:
    """Private tests as LiveCodeBench packs them."""
    data = pickle.dumps(json.dumps(tests))
    return base64.b64encode(zlib.compress(data)).decode()


def stdin_tests(*pairs: tuple[str, str]) -> list[Row]:
    return [{"input": given, "output": out, "testtype": "stdin"} for given, out in pairs]


def livecodebench_rows() -> list[Row]:
    """A program that adds, of the window of v5, and a function that doubles, of v6."""
    doubles = [
        {"input": given, "output": out, "testtype": "functional"}
        for given, out in (("[1, 2]", "[2, 4]"), ("[]", "[]"))
    ]
    common = {"platform": "atcoder", "contest_id": "c1", "difficulty": "easy"}
    return [
        common
        | {
            "question_title": "Sum",
            "question_content": "Print the sum of two numbers.",
            "question_id": "sum_a",
            "contest_date": "2024-09-01T00:00:00",
            "starter_code": "",
            "public_test_cases": json.dumps(stdin_tests(("1 2\n", "3\n"))),
            "private_test_cases": packed(stdin_tests(("10 20\n", "30"), ("-1 1\n", "0\n"))),
            "metadata": "{}",
        },
        common
        | {
            "question_title": "Double",
            "question_content": "Double every number of a list.",
            "question_id": "3456",
            "contest_date": "2025-02-08T00:00:00",
            "starter_code": "class Solution:\n    def double(self, n: List[int]) -> List[int]:\n",
            "public_test_cases": json.dumps(doubles[:1]),
            "private_test_cases": packed(doubles),
            "metadata": '{"func_name": "double"}',
        },
    ]
