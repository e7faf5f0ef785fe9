"""Records before and after scoring, whoever scores: Megatron or a server."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.records import FilteredResponse, Message, ScoredResponse, TokenLogprobs
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode_example, token_num_bytes


def read_split(file: Path, settings: ScoreStudent, aside: SetAside) -> list[FilteredResponse]:
    """The records of a file that belong to the settings' split; the others are counted."""
    chosen = []
    for record in read_records(file, FilteredResponse, aside.malformed):
        if settings.split in ("all", record.prompt.split):
            chosen.append(record)
        else:
            aside.counts["other split"] += 1
    return chosen


def encode_record(
    record: FilteredResponse,
    tokenizer: PreTrainedTokenizerBase,
    settings: ScoreStudent,
    few_shot: Sequence[Message],
) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids) as the student reads them, the end of turn included."""
    prompt = render_prompt(tokenizer, record.prompt.messages, settings.system_prompt, few_shot)
    return encode_example(
        tokenizer, prompt, record.output, record.student_prefix, record.student_prefix_ids
    )


def scored_record(
    record: FilteredResponse,
    response_ids: list[int],
    logprobs: list[float],
    tokenizer: PreTrainedTokenizerBase,
    student_model: str,
) -> ScoredResponse:
    """The record with the student's log-probs.

    Args:
        logprobs: [tokens] ln p of ``response_ids``.
        student_model: name of the scoring model, kept in the record.
    """
    return ScoredResponse(
        **vars(record),
        student_tokens=TokenLogprobs(
            token_ids=response_ids,
            num_bytes=token_num_bytes(tokenizer, response_ids),
            logprobs=logprobs,
        ),
        student_model=student_model,
    )
