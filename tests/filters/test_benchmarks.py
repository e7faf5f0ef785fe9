"""Benchmarks' texts: what gives them away, and the messages to the user."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.config.selection import Decontamination
from megatron_dasd.errors import UserError
from megatron_dasd.filters.benchmarks import Benchmarks
from tests.benchmarks import published

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
    found = known.found_in(
        "Hmm. Every morning, Aya goes for a 9 kilometer long walk and stops at... Why?"
    )
    assert found == (
        "'every morning aya goes for a 9 kilometer long walk and stops at' of aime.jsonl, record 2"
    )


def test_a_shorter_text_is_looked_for_whole(questions: Path) -> None:
    known = benchmarks(questions)
    assert known.found_in("find the sum of all primes below ten") is None
    found = known.found_in("We must find the sum of all primes below twenty now.")
    assert found == "'find the sum of all primes below twenty' of aime.jsonl, record 3"
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
    found = benchmarks(tmp_path / "c.txt").found_in(QUESTION)
    assert found is not None
    assert found.endswith("of c.txt, record 2")


def test_a_benchmark_without_anything_to_look_for_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem": "too short"}\n')
    with pytest.raises(UserError, match="a.jsonl: no text of at least 8 words"):
        benchmarks(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("{")
    with pytest.raises(UserError, match="b.jsonl: record 1: bad JSON"):
        benchmarks(tmp_path / "b.jsonl")


INSTRUCTION = (
    "Solve the following problem step by step and put the final answer within a box at the end."
)


def test_an_instruction_that_many_prompts_share_gives_no_benchmark_away(tmp_path: Path) -> None:
    path = tmp_path / "bench.txt"
    path.write_text(f"{INSTRUCTION} {QUESTION}\n{INSTRUCTION} What is two plus two?\n")
    known = benchmarks(path)
    own = [f"{INSTRUCTION} How many primes are below {n}?" for n in range(20)]
    assert known.found_in(own[0]) is not None
    searched = known.without_common_runs(own, Decontamination())
    assert [prompt for prompt in own if searched.found_in(prompt)] == []
    # runs that begin in the instruction and end in the question are no sign either
    assert searched.found_in(f"{INSTRUCTION} What is my name?") is None
    # a question of the benchmark is found behind the instruction and without it
    for text in (f"{INSTRUCTION} {QUESTION}", f"Well. {QUESTION}"):
        found = searched.found_in(text)
        assert found is not None
        assert found.startswith("'every morning aya goes")


def test_a_run_is_common_from_a_tenth_of_the_prompts_on(questions: Path) -> None:
    known = benchmarks(questions)

    def is_searched_for(with_it: int, without: int, **settings: int) -> bool:
        prompts = [f"{n}? {QUESTION}" for n in range(with_it)]
        prompts += [f"What is {n} and {n}?" for n in range(without)]
        bounds = Decontamination(**settings)  # type: ignore[arg-type]
        return known.without_common_runs(prompts, bounds).found_in(QUESTION) is not None

    assert is_searched_for(4, 0)  # five different prompts at least
    assert not is_searched_for(5, 0)
    assert is_searched_for(9, 91)
    assert not is_searched_for(10, 90)
    assert not is_searched_for(7, 200, common_prompts=7)
    # one prompt many times over is one prompt
    same = known.without_common_runs([QUESTION] * 50, Decontamination())
    assert same.found_in(QUESTION) is not None


def test_what_is_evaluated_is_searched_for_and_some_of_it_is_not_shown(tmp_path: Path) -> None:
    question = "How many of the first hundred whole numbers have a digit sum that is prime?"
    row = {"problem_idx": 3, "problem": question, "answer": 1}
    copies = {
        "aime25": published.jsonl(tmp_path / "aime.jsonl", [row]),
        "gpqa_diamond": published.gpqa(tmp_path / "gpqa_diamond.csv"),
    }
    known = Benchmarks.read([], Decontamination(), copies)
    assert known.num_questions == {"AIME25": 1, "GPQA-Diamond": 1}
    assert known.found_in(f"So: {question}") == (
        "'how many of the first hundred whole numbers have a digit sum that' of AIME25, question 3"
    )
    found = known.found_in(f"So: {published.GPQA_QUESTION}")
    assert found == "13 words (not to be shown) of GPQA-Diamond, question rec1"
    assert known.found_in("nothing of either") is None
