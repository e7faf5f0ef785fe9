"""Benchmarks in their published layouts become prompts; other layouts are one clear line."""

import base64
import json
import os
import pickle
import zlib
from datetime import date
from pathlib import Path

import pytest

from megatron_dasd.benchmarks import livecodebench
from megatron_dasd.benchmarks.asked import is_private, prompt_of, read_questions, window_of
from megatron_dasd.benchmarks.code_tests import is_expected
from megatron_dasd.benchmarks.livecodebench import private_json, string_of_pickle
from megatron_dasd.benchmarks.table import BENCHMARKS
from megatron_dasd.config.benchmarks import LiveCodeBench, PlainQuestions, Window
from megatron_dasd.errors import UserError
from tests.benchmarks import published


def test_the_reports_parameters() -> None:
    found = {one.name: (one.max_new_tokens, one.grader, one.num_questions) for one in BENCHMARKS}
    assert found["aime24"] == found["aime25"] == found["aime26"] == (102_400, "math", 30)
    assert found["gpqa_diamond"] == (81_920, "choice", 198)
    assert found["livecodebench_v5"] == found["livecodebench_v6"] == (81_920, "code", None)
    assert [one.name for one in BENCHMARKS if one.is_private] == ["gpqa_diamond"]


@pytest.mark.parametrize(
    "row",
    [
        {"problem_idx": 7, "problem": "Q", "answer": 25},
        {"id": 7, "problem": "Q", "answer": "025", "solution": "s", "url": "u", "year": "2024"},
        {"ID": "7", "Problem": "Q", "Solution": "s", "Answer": 25},
        {"id": "7", "question": "Q", "answer": "25"},
        {"id": 7, "problem": "Q", "solution": "So \\boxed{1} or \\boxed{025}.", "url": "u"},
        {"id": 7, "problem": "Q", "expected_answer": 25.0},
    ],
)
def test_layouts_of_aime(row: published.Row, tmp_path: Path) -> None:
    [question] = read_questions("aime24", published.jsonl(tmp_path / "q.jsonl", [row]))
    assert (question.question_id, question.text, question.reference) == ("7", "Q", "25")


def test_a_folder_of_two_contests_that_number_their_questions_alike(tmp_path: Path) -> None:
    for name in ("I", "II"):
        row: published.Row = {"problem_idx": 1, "problem": f"Q {name}", "answer": 3}
        published.parquet(tmp_path / f"aime_{name}.parquet", [row])
    found = [one.question_id for one in read_questions("aime25", tmp_path)]
    assert found == ["1", "aime_II-1"]


def test_gsm8k_math_and_plain(tmp_path: Path) -> None:
    row: published.Row = {"question": "Q", "answer": "3 + 4 = 7\n#### 1,007"}
    [gsm8k] = read_questions("gsm8k", published.jsonl(tmp_path / "a.jsonl", [row]))
    assert gsm8k.reference == "1007"
    row = {"problem": "Q", "solution": "s", "answer": "\\frac12", "unique_id": "test/a/1.json"}
    [math] = read_questions("math_500", published.jsonl(tmp_path / "b.jsonl", [row]))
    assert (math.question_id, math.reference) == ("test/a/1.json", "\\frac12")
    own = PlainQuestions(question="ask", answer="right", grader="exact")
    path = published.jsonl(tmp_path / "c.jsonl", [{"ask": "Q", "right": 4}])
    [plain] = read_questions("plain", path, own)
    prompt = prompt_of(BENCHMARKS["plain"], plain, 1, own)
    assert (prompt.prompt_id, prompt.reference_answer, prompt.grader) == ("plain/1", "4", "exact")


def test_options_are_shuffled_by_the_seed_and_the_letter_follows(tmp_path: Path) -> None:
    [question] = read_questions("gpqa_diamond", published.gpqa(tmp_path / "gpqa_diamond.csv"))
    letters = set()
    for seed in range(12):
        prompt = prompt_of(BENCHMARKS["gpqa_diamond"], question, seed)
        assert prompt == prompt_of(BENCHMARKS["gpqa_diamond"], question, seed)
        assert f"({prompt.reference_answer}) the blue one" in prompt.messages[0].content
        assert is_private(prompt)
        letters.add(prompt.reference_answer)
    assert letters == {"A", "B", "C", "D"}


def test_livecodebench_asks_the_questions_of_its_window(tmp_path: Path) -> None:
    path = published.jsonl(tmp_path / "test6.jsonl", published.livecodebench_rows())
    settings = LiveCodeBench()
    for name, kept in (("livecodebench_v5", "sum_a"), ("livecodebench_v6", "3456")):
        [question] = read_questions(name, path, window=window_of(name, settings))
        assert question.question_id == kept
    day = Window(first=date(2020, 1, 1), last=date(2020, 1, 1))
    with pytest.raises(UserError, match="no question of LiveCodeBench v5 from 2020-01-01 to"):
        list(read_questions("livecodebench_v5", path, window=day))
    program, function = read_questions("livecodebench_v5", path)
    assert program.tests is not None
    assert function.tests is not None
    tests = program.tests()
    assert (tests.kind, tests.inputs, tests.outputs, tests.num_public) == (
        "stdin",
        ["1 2\n", "10 20\n", "-1 1\n"],
        ["3\n", "30", "0\n"],
        1,
    )
    assert (function.tests().kind, function.tests().function) == ("functional", "double")
    prompt = prompt_of(BENCHMARKS["livecodebench_v6"], function, 1)
    assert prompt.messages[0].content.endswith("-> List[int]:\n```")
    assert "[2, 4]" not in f"{prompt}"


SECRET = "a question that nobody may see"


@pytest.mark.parametrize(
    ("name", "row", "what"),
    [
        ("aime24", {"problem": SECRET, "answer": "1000"}, "field answer: expected a whole number"),
        ("aime24", {"problem": SECRET, "solution": "none"}, "field answer: expected a whole"),
        ("aime24", {"text": SECRET, "answer": 1}, r"field problem: is missing \(the row has text,"),
        ("gpqa_diamond", {"Question": SECRET}, "field Correct Answer: is missing"),
        ("gsm8k", {"question": SECRET, "answer": "7"}, "field answer: expected ####"),
        ("math_500", {"problem": SECRET, "answer": [1]}, "field answer: expected text"),
        ("livecodebench_v5", {"question_content": SECRET}, "field contest_date: is missing"),
        ("livecodebench_v5", {"contest_date": "May 1"}, "field contest_date: expected a day"),
    ],
)
def test_another_layout_is_one_line_without_the_question(
    name: str, row: published.Row, what: str, tmp_path: Path
) -> None:
    path = published.jsonl(tmp_path / "q.jsonl", [row])
    with pytest.raises(UserError, match=f"q.jsonl: record 1: {what}") as raised:
        list(read_questions(name, path))
    assert "is published" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; give your own copy of the benchmark"):
        list(read_questions("aime24", tmp_path / "nowhere"))
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"Question\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"bad.csv: not readable as CSV \(not UTF-8 text\)"):
        list(read_questions("gpqa_diamond", bad))


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/megatron_dasd.ran",)


def pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("text", ["[]", "é" * 200, "x" * 70_000])
def test_a_pickled_string_is_read(protocol: int, text: str) -> None:
    assert string_of_pickle(pickle.dumps(text, protocol)) == text


@pytest.mark.parametrize(
    "value",
    [_Runs(), ["x"], 7, b"bytes", None, {"a": 1}, ("x", "x")],
    ids=lambda v: type(v).__name__,
)
def test_any_other_pickle_is_refused_unopened(value: object) -> None:
    for protocol in range(6):
        with pytest.raises(ValueError, match="something other than a string: refused"):
            string_of_pickle(pickle.dumps(value, protocol))
    assert not Path("/tmp/megatron_dasd.ran").exists()


def test_damaged_and_swollen_private_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pickle.dumps("[]")
    for data in (b"", whole[:-1], whole + b".", whole[:3], b"X\xff\xff\xff\xff" + whole):
        with pytest.raises(ValueError, match="refused"):
            string_of_pickle(data)
    packed = zlib.compress(whole)
    for field in ("no base64!", base64.b64encode(b"no zlib").decode()):
        with pytest.raises(ValueError, match="private_test_cases: damaged"):
            private_json(field)
    with pytest.raises(ValueError, match="is cut off"):
        private_json(base64.b64encode(packed[:-6]).decode())
    monkeypatch.setattr(livecodebench, "MOST_TEST_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1,000 bytes: refused"):
        private_json(pack(pickle.dumps("x" * 10**6)))
    assert private_json('[{"input": ""}]') == '[{"input": ""}]'


@pytest.mark.parametrize(
    ("kind", "output", "expected", "same"),
    [
        ("stdin", "3", "3\n", True),
        ("stdin", " 1 2 \n3\n\n", "1 2\n3", True),
        ("stdin", "1.50 2", "1.5 2.0", True),
        ("stdin", "50000000000000000", "50000000000000001", False),
        ("stdin", "yes", "YES", False),
        ("stdin", "1\n2", "1 2", False),
        ("functional", "[1, 2.0]", "[1, 2]", True),
        ("functional", "[2, 1]", "[1, 2]", False),
        ("functional", "no JSON", "[1, 2]", False),
    ],
)
def test_outputs_that_are_the_expected_ones(
    kind: str, output: str, expected: str, same: bool
) -> None:
    assert is_expected(kind, output, expected) is same  # type: ignore[arg-type]


def test_the_rows_are_read_as_json() -> None:
    assert json.loads(private_json(published.packed(published.stdin_tests(("a", "b")))))
