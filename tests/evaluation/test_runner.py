"""Stage evaluate on a random model: resumable, the same draws for all models, honest counts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.config.base import Engine
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.engines.base import Generation
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation import runner
from megatron_dasd.manifests import Manifest
from megatron_dasd.records import Graded, Prompt, TokenLogprobs
from megatron_dasd.records_io import SetAside, read_records
from tests.benchmarks import published

MakePrompt = Callable[..., Prompt]
WriteRecords = Callable[[str, Sequence[Sequence[Any]]], Path]
RunStage = Callable[..., Manifest]
SETTINGS = Evaluate(
    kind="evaluate",
    prompts="prompts",
    models={"a": "model", "b": "model"},
    num_samples=2,
    max_new_tokens=6,
    engine=Engine(batch_size=4, dtype="float32"),
    seed=5,
)


@pytest.fixture
def inputs(
    make_prompt: MakePrompt, write_records: WriteRecords, random_model_dir: Path
) -> dict[str, Path]:
    """Three held-out prompts to grade, one without a grader, one to train on."""
    graded = {"split": "heldout", "grader": "exact", "reference_answer": "7"}
    prompts = [make_prompt(f"p{n}", f"q{n}", **graded) for n in range(3)]
    prompts.append(make_prompt("p3", "q3", split="heldout"))
    prompts.append(make_prompt("p4", "q4", grader="exact", reference_answer="7"))
    return {"prompts": write_records("prompts", [prompts]), "model": random_model_dir}


def test_both_models_answer_every_prompt_with_the_same_draws(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    manifest = run_stage(runner.run, SETTINGS, inputs)
    answers = list(read_records(tmp_path / "stage", Graded))
    asked = [("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1), ("p2", 0), ("p2", 1)]
    assert [(a.model, a.prompt.prompt_id, a.sample) for a in answers] == [
        (model, *task) for model in ("a", "b") for task in asked
    ]
    assert [a.text for a in answers[:6]] == [a.text for a in answers[6:]]
    assert answers[0].text != answers[1].text
    assert manifest.counts == {"no answer": 12, "skipped: no grader": 1, "skipped: train": 1}
    assert manifest.figures["models"]["b"] == {
        "accuracy": {"mean": 0.0, "stderr": 0.0},
        "difference": {"mean": 0.0, "stderr": 0.0},
        "answered": 0.0,
        "cut_off": sum(a.finish_reason == "length" for a in answers[6:]) / 6,
        "pass_at": {},
        "majority_at": {},
        "mean_tokens": sum(a.num_tokens for a in answers[6:]) / 6,
        "num_prompts": 3,
        "num_answers": 6,
    }


def test_a_second_attempt_gives_the_same(
    run_stage: RunStage, inputs: dict[str, Path], tmp_path: Path
) -> None:
    whole = run_stage(runner.run, SETTINGS, inputs, name="whole")
    run_stage(runner.run, SETTINGS, inputs, name="cut")
    for lost in ("part-00001.parquet", "part-00002.parquet"):
        (tmp_path / "cut" / lost).unlink()
    assert run_stage(runner.run, SETTINGS, inputs, name="cut").digest == whole.digest


def test_an_unknown_grader_stops_before_any_model_is_loaded(
    run_stage: RunStage,
    make_prompt: MakePrompt,
    write_records: WriteRecords,
) -> None:
    prompt = make_prompt("p0", split="heldout", grader="vibes", reference_answer="7")
    inputs = {"prompts": write_records("prompts", [[prompt]]), "model": Path("nowhere")}
    with pytest.raises(UserError, match="prompt p0: field grader: 'vibes' is no known grader"):
        run_stage(runner.run, SETTINGS, inputs)


def test_why_a_grader_failed_is_counted(make_prompt: MakePrompt) -> None:
    prompt = make_prompt("p0", grader="choice", reference_answer="B")

    def written(answer: str) -> Generation:
        return Generation(
            text=f"<think>\nx\n</think>\n\n{answer}",
            tokens=TokenLogprobs(token_ids=[], num_bytes=[], logprobs=[]),
            finish_reason="stop",
        )

    aside = SetAside()
    answers = [written("(B)"), written("C"), written("B" * 10**6)]
    graded = runner._grade_all("m", [(prompt, n) for n in range(3)], answers, aside)
    assert [one.score for one in graded] == [1.0, 0.0, 0.0]
    assert aside.counts == {"right": 1, "wrong": 2, "grader: too long": 1}


def test_nothing_to_grade(
    run_stage: RunStage, make_prompt: MakePrompt, write_records: WriteRecords
) -> None:
    inputs = {"prompts": write_records("prompts", [[make_prompt()]]), "model": Path("nowhere")}
    with pytest.raises(UserError, match="no held-out prompt carries a grader"):
        run_stage(runner.run, SETTINGS, inputs)


def test_benchmarks_are_asked_as_they_are_published(
    run_stage: RunStage, random_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = published.livecodebench_rows()
    inputs = {
        "model": random_model_dir,
        "aime": published.aime(tmp_path / "aime.parquet"),
        "gpqa": published.gpqa(tmp_path / "gpqa_diamond.csv"),
        "lcb": published.jsonl(tmp_path / "test6.jsonl", rows),
    }
    settings = Evaluate(
        kind="evaluate",
        models={"a": "model"},
        benchmarks={"aime25": "aime", "gpqa_diamond": "gpqa", "livecodebench_v6": "lcb"},
        num_samples=2,
        max_new_tokens=4,
        engine=Engine(batch_size=8, dtype="float32"),
        seed=5,
    )
    run_stage(runner.run, settings, inputs)
    answers = list(read_records(tmp_path / "stage", Graded))
    assert [(one.prompt.prompt_id, one.sample) for one in answers] == [
        (f"{question}", sample)
        for question in ("aime25/1", "aime25/2", "gpqa_diamond/rec1", "livecodebench_v6/3456")
        for sample in (0, 1)
    ]
    assert "AIME25" in (said := capsys.readouterr().out)
    assert "holds 2 questions of the 30 published" in said
    assert not (tmp_path / "stage" / ".tests.tmp").exists()
    assert "[2, 4]" not in f"{answers}"  # no test goes with an answer
    for file in (tmp_path / "stage").glob("*.*"):
        if file.suffix != ".parquet":
            assert "made-up" not in file.read_text()


def test_a_benchmark_in_another_layout_stops_the_stage(
    run_stage: RunStage, random_model_dir: Path, tmp_path: Path
) -> None:
    [row, *_] = published.livecodebench_rows()
    damaged = row | {"private_test_cases": published.packed([{"input": "1"}])}
    inputs = {
        "model": random_model_dir,
        "lcb": published.jsonl(tmp_path / "test5.jsonl", [damaged]),
    }
    settings = Evaluate(
        kind="evaluate", models={"a": "model"}, benchmarks={"livecodebench_v5": "lcb"}, seed=1
    )
    with pytest.raises(UserError, match="question sum_a: test 2: field output: expected text"):
        run_stage(runner.run, settings, inputs)
