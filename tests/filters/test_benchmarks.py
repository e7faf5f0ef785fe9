"""Benchmarks' texts: what gives them away, and what a user is told."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.config.selection import Decontamination
from megatron_dasd.errors import UserError
from megatron_dasd.filters.benchmarks import Benchmarks

QUESTION = (
    "Every morning Aya goes for a 9-kilometer-long walk and stops at a coffee shop afterwards."
)


def benchmarks(path: Path, **settings: object) -> Benchmarks:
    return Benchmarks.read([path], Decontamination(**settings))  # type: ignore[arg-type]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "aime.jsonl"
    rows = [
        {"problem": "too short", "answer": "1"},
        {"problem": QUESTION, "answer": "204"},
        {"problem": "Find the sum of all primes below twenty", "id": 7},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_thirteen_words_in_a_row_give_a_text_away(questions: Path) -> None:
    known = benchmarks(questions)
    # only ten words in a row
    assert known.found_in("EVERY morning, Aya goes for a 9 kilometer long walk; home.") is None
    told = known.found_in(
        "Hmm. Every morning, Aya goes for a 9 kilometer long walk and stops at... Why?"
    )
    assert told == (
        "'every morning aya goes for a 9 kilometer long walk and stops at' of aime.jsonl, record 2"
    )


def test_a_shorter_text_is_looked_for_whole(questions: Path) -> None:
    known = benchmarks(questions)
    assert known.found_in("find the sum of all primes below ten") is None
    told = known.found_in("We must find the sum of all primes below twenty now.")
    assert told == "'find the sum of all primes below twenty' of aime.jsonl, record 3"
    assert benchmarks(questions, min_words=9).found_in(
        "find the sum of all primes below twenty"
    ) is (None)


def test_chosen_fields_parquet_and_plain_text(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="aime.jsonl: record 1: field question: expected a string"):
        benchmarks(questions, fields=["question"])
    assert benchmarks(questions, fields=["problem"], ngram_words=8).found_in(QUESTION)
    pq.write_table(pa.Table.from_pylist([{"q": QUESTION}]), tmp_path / "b.parquet")
    assert benchmarks(tmp_path / "b.parquet").found_in(QUESTION)
    (tmp_path / "c.txt").write_text(f"other words\n{QUESTION}\n")
    told = benchmarks(tmp_path / "c.txt").found_in(QUESTION)
    assert told is not None
    assert told.endswith("of c.txt, record 2")


def test_a_benchmark_without_anything_to_look_for_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem": "too short"}\n')
    with pytest.raises(UserError, match="a.jsonl: no text of at least 8 words"):
        benchmarks(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("{")
    with pytest.raises(UserError, match="b.jsonl: record 1: bad JSON"):
        benchmarks(tmp_path / "b.jsonl")
