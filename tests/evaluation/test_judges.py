"""Answers go out in sgl-eval's layout; marks of sgl-eval and lm-eval come back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.judges import differences, export_answers, own_marks, read_marks
from megatron_dasd.records import Graded, Prompt


@pytest.fixture
def answers(make_prompt: Callable[..., Prompt]) -> list[Graded]:
    """Two samples to a question of AIME, one to a private one."""

    def one(question: str, sample: int, right: bool) -> Graded:
        domain = question.split("/")[0]
        return Graded(
            prompt=make_prompt(question, "the question", domain=domain, reference_answer="7"),
            model="m",
            sample=sample,
            text=f"<think>\nx\n</think>\n\n\\boxed{{{7 if right else 8}}}",
            score=float(right),
            num_tokens=5,
            finish_reason="stop",
        )

    return [
        one("aime25/1", 0, True),
        one("aime25/1", 1, False),
        one("gpqa_diamond/rec1", 0, True),
    ]


def test_export_and_sgl_evals_marks(
    answers: list[Graded], write_records: Callable[..., Path], tmp_path: Path
) -> None:
    stage = write_records("stage", [answers])
    folders = export_answers(answers, tmp_path / "out")
    assert [folder.parent.name for folder in folders] == ["aime25", "gpqa_diamond"]
    [row] = map(json.loads, (folders[0] / "output-rs1.jsonl").read_text().splitlines())
    assert row == {
        "id": "aime25/1",
        "problem": "the question",
        "expected_answer": "7",
        "generation": "\\boxed{8}",
        "finish_reason": "stop",
        "num_generated_tokens": 5,
    }
    assert "the question" not in (folders[1] / "output-rs0.jsonl").read_text()
    for sample, right in ((0, True), (1, True)):
        path = folders[0] / f"output-rs{sample}.jsonl"
        judged = json.loads(path.read_text()) | {"symbolic_correct": right}
        path.write_text(json.dumps(judged) + "\n")
    assert differences(own_marks(stage, "aime25", "m"), read_marks(folders[0])) == [
        "2 answers, 1 judged differently",
        "aime25/1, sample 1: wrong here, right there",
    ]


def test_lm_evals_samples(answers: list[Graded], tmp_path: Path) -> None:
    path = tmp_path / "samples_aime25_2026-01-01.jsonl"
    row = {"doc_id": 0, "doc": {"id": "aime25/1"}, "metrics": ["exact_match"], "exact_match": 1.0}
    path.write_text(json.dumps(row) + "\n")
    assert read_marks(path) == {("aime25/1", 0): True}
    del row["doc"]
    path.write_text(json.dumps(row) + "\n")
    assert read_marks(path) == {("0", 0): True}


def test_what_holds_no_marks(
    answers: list[Graded], write_records: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no output-rs\*.jsonl here"):
        read_marks(tmp_path)
    (tmp_path / "output-rs0.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match="record 1: holds no mark"):
        read_marks(tmp_path)
    with pytest.raises(UserError, match="no answer in common"):
        differences({("a", 0): True}, {("b", 0): True})
    with pytest.raises(UserError, match="no answer of other to aime25"):
        own_marks(write_records("stage", [answers]), "aime25", "other")
