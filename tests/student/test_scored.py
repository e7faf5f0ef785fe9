"""A record with the student's log-probs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import FilteredResponse, Span
from megatron_dasd.student.scored import StudentReader
from megatron_dasd.text.encoding import load_tokenizer

OUTPUT = "<think>\na b\n</think>\n\nc"
PARTS = [Span(start=8, end=11), Span(start=22, end=23)]


@pytest.mark.parametrize("spans", [PARTS, []], ids=["parts", "a rollout kept whole"])
def test_its_tokens_stand_for_the_whole_output(
    spans: list[Span], random_model_dir: Path, make_response: Callable[..., FilteredResponse]
) -> None:
    tokenizer = load_tokenizer(model_folder(random_model_dir))
    settings = ScoreStudent(
        kind="score_student",
        responses="responses",
        model="model",
        checkpoint="checkpoint",
        batch_tokens=64,
    )
    record = make_response(OUTPUT, record_type=FilteredResponse, output=OUTPUT, output_spans=spans)
    reader = StudentReader(tokenizer, settings)
    _, response_ids = reader.encode(record)
    scored = reader.scored(record, response_ids, [-1.0] * len(response_ids), "student")
    assert scored.student_tokens.token_ids == response_ids
    assert sum(scored.student_tokens.num_bytes) == len(OUTPUT.encode())
