"""Student log-probs against transformers, under several layouts."""

import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.records import FilteredResponse, Message, Prompt, ScoredResponse, TokenLogprobs
from megatron_dasd.records_io import read_records, to_table
from megatron_dasd.student import scoring
from megatron_dasd.text.layout import Layout, encode_laid
from megatron_dasd.text.thinking import NORMALISED, normalise
from tests.distributed.kills import run_with_kills

OUTPUTS = ["<think>\nabc\n</think>\n\nd", "<think>\n" + "xyz " * 9 + "\n</think>\n\nend", "q"]


def record(number: int, output: str) -> FilteredResponse:
    normalised = normalise(output, NORMALISED.model_copy(update={"required": False}))
    assert normalised is not None
    return FilteredResponse(
        prompt=Prompt(
            prompt_id=f"p{number}",
            messages=[Message(role="user", content="ask " * (number + 1))],
            split="heldout" if number == 2 else "train",
        ),
        temperature=0.6,
        candidate=0,
        seed=0,
        model="teacher",
        text=output,
        tokens=TokenLogprobs(token_ids=[5], num_bytes=[len(output)], logprobs=[-1.0]),
        finish_reason="stop",
        output=output,
        output_spans=normalised.output_spans,
    )


@pytest.fixture(scope="module")
def filtered(workshop: Any) -> Path:
    folder: Path = workshop.place / "filtered"
    folder.mkdir()
    for part in range(2):
        records = [record(i, text) for i, text in enumerate(OUTPUTS)]
        pq.write_table(to_table(FilteredResponse, records, {}), folder / f"part-{part:05d}.parquet")
    return folder


def score(workshop: Any, filtered: Path, name: str, model: str = "llama", **changes: Any) -> Any:
    settings = ScoreStudent(
        kind="score_student",
        responses="responses",
        model="model",
        checkpoint="checkpoint",
        batch_tokens=256,
        **changes,
    )
    return workshop.run(
        name,
        scoring.run,
        settings,
        responses=filtered,
        model=workshop.models[model],
        checkpoint=workshop.checkpoints[model],
    )


@torch.no_grad()
def expected_logprobs(workshop: Any, scored: ScoredResponse, name: str = "llama") -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(workshop.models[name], dtype=torch.float32)
    laid = Layout(workshop.tokenizer).lay_out(scored, ends=True)
    prompt_ids, response_ids = encode_laid(workshop.tokenizer, laid)
    assert scored.student_tokens.token_ids == response_ids
    logits = model(torch.tensor([prompt_ids + response_ids])).logits[0].log_softmax(-1)
    first = len(prompt_ids) - 1
    values = [float(logits[first + i, token]) for i, token in enumerate(response_ids)]
    return values


@pytest.mark.parametrize(
    "launch",
    [
        {"num_ranks": 1},
        {"num_ranks": 4, "tensor_parallel": 2, "pipeline_parallel": 2},
        {"num_ranks": 2},
        {"num_ranks": 2, "context_parallel": 2},
        {"num_ranks": 4, "tensor_parallel": 2, "context_parallel": 2},
        {"num_ranks": 4, "pipeline_parallel": 2, "context_parallel": 2},
    ],
    ids=["one rank", "tp2 pp2", "dp2", "cp2", "tp2 cp2", "pp2 cp2"],
)
def test_scores_agree_with_transformers(
    launch: dict[str, int], workshop: Any, filtered: Path
) -> None:
    name = f"scored {launch}"
    folder = score(workshop, filtered, name, launch=launch)
    scored = list(read_records(folder.path, ScoredResponse))
    assert [r.output for r in scored] == OUTPUTS * 2
    for response in scored[:3]:
        wanted = expected_logprobs(workshop, response)
        assert response.student_tokens.logprobs == pytest.approx(wanted, abs=1e-4)
        assert sum(response.student_tokens.num_bytes) == len(response.output.encode())


@pytest.mark.parametrize("context_parallel", [1, 2])
def test_ranks_that_share_experts_score_together(
    context_parallel: int, workshop: Any, filtered: Path
) -> None:
    """Four ranks, two of them for each of the two parts."""
    launch = {"num_ranks": 4, "expert_parallel": 2, "context_parallel": context_parallel}
    name = f"scored experts cp{context_parallel}"
    folder = score(workshop, filtered, name, model="qwen3_moe", launch=launch)
    scored = list(read_records(folder.path, ScoredResponse))
    assert [r.output for r in scored] == OUTPUTS * 2
    for response in scored[:3]:
        wanted = expected_logprobs(workshop, response, "qwen3_moe")
        assert response.student_tokens.logprobs == pytest.approx(wanted, abs=1e-4)


def test_one_split_alone(workshop: Any, filtered: Path) -> None:
    folder = score(workshop, filtered, "scored heldout", split="heldout")
    assert [r.prompt.prompt_id for r in read_records(folder.path, ScoredResponse)] == ["p2", "p2"]
    assert folder.tally() == {"scored": 2, "other split": 4}


NUM_KILLS, NUM_PARTS = 8, 20


@pytest.mark.exhaustive
@pytest.mark.slow
def test_killed_again_and_again_the_files_are_the_same(workshop: Any) -> None:
    source: Path = workshop.place / "to be scored"
    source.mkdir()
    for part in range(NUM_PARTS):
        records = [record(i, text) for i, text in enumerate(OUTPUTS)]
        pq.write_table(to_table(FilteredResponse, records, {}), source / f"part-{part:05d}.parquet")
    launch = {"num_ranks": 2}
    started = time.monotonic()
    expected = parts_of(score(workshop, source, "never killed", launch=launch).path)
    seconds = time.monotonic() - started
    assert len(expected) == NUM_PARTS

    def again(name: str) -> dict[str, bytes]:
        return parts_of(score(workshop, source, f"killed, {name}", launch=launch).path)

    run_with_kills(again, expected, NUM_KILLS, seconds, seed=7)


def parts_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}
