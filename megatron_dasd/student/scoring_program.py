"""The scoring program of one rank.  Payload: see ``student.scoring``."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from megatron_dasd.artifacts import write_part
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.data.packing import best_fit_decreasing
from megatron_dasd.data.rows import packed_row
from megatron_dasd.device.launch import run_program
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import read_architecture
from megatron_dasd.models.program import common_flags, load_model
from megatron_dasd.records import FilteredResponse, Message, ScoredResponse
from megatron_dasd.records_io import SetAside, record_files
from megatron_dasd.student.scored import encode_record, read_wanted, scored_record
from megatron_dasd.text.chat import read_few_shot
from megatron_dasd.text.encoding import load_tokenizer

_ROW_MULTIPLE = 64
"""Rows are as long as they need to be, rounded up: sequence parallelism divides them by tp."""


def main(payload: dict[str, Any]) -> None:
    """Score this data-parallel rank's share of the parts and write them."""
    settings = ScoreStudent.model_validate(payload["settings"])
    folder = Path(payload["model"])
    tokenizer = load_tokenizer(folder)
    flags = common_flags(
        read_architecture(folder), settings.launch, settings.batch_tokens, settings.dtype
    )
    model = load_model(flags, Path(payload["checkpoint"]))
    from megatron.core import mpu

    # Ranks that share experts go in step, so they score the same parts.
    share = mpu.get_expert_model_parallel_world_size()
    rank, size = mpu.get_data_parallel_rank() // share, mpu.get_data_parallel_world_size() // share
    writes = (
        mpu.is_pipeline_last_stage()
        and mpu.get_tensor_model_parallel_rank() == 0
        and mpu.get_expert_model_parallel_rank() == 0
    )
    files = record_files(Path(payload["responses"]))
    few_shot = read_few_shot(Path(payload["few_shot"]) if payload["few_shot"] else None)
    scorer = partial(_score, model, tokenizer, settings, few_shot)
    for index in payload["parts"][rank::size]:
        _score_part(files[index], index, settings, scorer, Path(payload["out"]), writes)


def _score_part(
    file: Path, index: int, settings: ScoreStudent, scorer: Any, out: Path, writes: bool
) -> None:
    aside = SetAside(settings.on_malformed)
    scored = scorer(read_wanted(file, settings, aside), file)
    if writes:
        aside.counts["scored"] = len(scored)
        write_part(out, index, ScoredResponse, scored, aside.counts, aside.rows)


def _score(
    model: list[torch.nn.Module],
    tokenizer: PreTrainedTokenizerFast,
    settings: ScoreStudent,
    few_shot: Sequence[Message],
    records: list[FilteredResponse],
    file: Path,
) -> list[ScoredResponse]:
    """Score records; empty on ranks that do not hold the last pipeline stage."""
    examples = []
    for record in records:
        example = encode_record(record, tokenizer, settings, few_shot)
        num_tokens = sum(map(len, example))
        if num_tokens > settings.batch_tokens:
            raise UserError(
                f"{file}: prompt {record.prompt.prompt_id}: {num_tokens} tokens are more than "
                f"batch_tokens {settings.batch_tokens}; raise it"
            )
        examples.append(example)
    logprobs = response_logprobs(model, examples, settings.batch_tokens)
    assert settings.checkpoint is not None  # or servers would score
    return [
        scored_record(record, response_ids, values.tolist(), tokenizer, settings.checkpoint)
        for record, (_, response_ids), values in zip(records, examples, logprobs, strict=False)
    ]


def response_logprobs(
    model: list[torch.nn.Module], examples: list[tuple[list[int], list[int]]], batch_tokens: int
) -> list[np.ndarray]:
    """ln p of every response token given what precedes it.

    Args:
        model: this rank's model chunks.
        examples: (prompt token ids, response token ids).
        batch_tokens: positions of the longest packed row.

    Returns:
        ``[len(response)]`` for each example; nothing on ranks without the last pipeline stage.
    """
    lengths = np.array([len(prompt) + len(response) for prompt, response in examples])
    logprobs: dict[int, np.ndarray] = {}
    for members in best_fit_decreasing(lengths, batch_tokens):
        tokens = [np.array(examples[m][0] + examples[m][1]) for m in members]
        used = sum(map(len, tokens))
        row_length = -(-used // _ROW_MULTIPLE) * _ROW_MULTIPLE
        row = packed_row([{"tokens": t, "loss_mask": np.ones(len(t))} for t in tokens], row_length)
        losses = _token_losses(model, row)
        if losses is None:
            continue
        start = 0
        for member, document in zip(members, tokens, strict=True):
            first = start + len(examples[member][0]) - 1  # the position that predicts the response
            end = start + len(document)
            logprobs[int(member)] = -losses[first : end - 1]
            start = end
    return [logprobs[member] for member in sorted(logprobs)]


@torch.no_grad()
def _token_losses(model: list[torch.nn.Module], row: dict[str, np.ndarray]) -> np.ndarray | None:
    """-ln p(label) at every position, float64 ``[seq]``; None without the last pipeline stage.

    Runs Megatron's schedule, so that any pipeline layout works.
    """
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.training import get_args

    from megatron_dasd.losses.output_layer import token_losses
    from megatron_dasd.models.packed import forward, to_batch

    processor = partial(token_losses, vocab_size=get_args().vocab_size)

    def step(rows: Iterator[Any], chunk: torch.nn.Module) -> tuple[Tensor, Any]:
        output = forward(chunk, next(rows), output_processor=processor)
        return output, lambda output, non_loss_data: output

    batch = to_batch(row)
    outputs = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter([batch]),
        model=model,
        num_microbatches=1,
        seq_length=len(row["tokens"]),
        micro_batch_size=1,
        forward_only=True,
        collect_non_loss_data=True,
    )
    return outputs[0][0].double().cpu().numpy() if outputs else None


if __name__ == "__main__":
    run_program(main)
