"""The scoring program of one rank."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megatron_dasd.artifacts import write_part
from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.checkpoint.pickles import allow_extra_states
from megatron_dasd.config.base import Launch
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.data.packing import aligned, best_fit_decreasing
from megatron_dasd.data.rows import packed_row
from megatron_dasd.device.launch import run_program
from megatron_dasd.errors import UserError
from megatron_dasd.models.context_parallel import row_order, slot_multiple
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import common_flags, load_model
from megatron_dasd.models.sizes import checkpoint_bytes, timeout_minutes
from megatron_dasd.records import FilteredResponse, ScoredResponse
from megatron_dasd.records_io import SetAside, record_files
from megatron_dasd.student.payload import ScoringPayload
from megatron_dasd.student.scored import StudentReader, read_split
from megatron_dasd.text.chat import read_few_shot
from megatron_dasd.text.encoding import load_tokenizer

_ROW_MULTIPLE = 64
"""Rows are as long as they need to be, rounded up; the layout may need a larger multiple."""

type Scorer = Callable[[list[FilteredResponse], Path], list[ScoredResponse]]
"""Scores the records of a file."""


def main(payload: ScoringPayload) -> None:
    """Score this data-parallel rank's share of the parts and write them."""
    settings = payload.settings
    _align, multiple = row_multiples(settings.launch)
    capacity = _rounded_up(settings.batch_tokens, multiple)
    flags = common_flags(
        read_architecture(payload.model), settings.launch, capacity, settings.dtype
    )
    checkpoint = open_checkpoint(payload.checkpoint)
    allow_extra_states()  # it was looked through just now
    minutes = timeout_minutes(checkpoint_bytes(checkpoint.num_weights, bf16=True))
    model = load_model(flags | {"distributed-timeout-minutes": minutes}, checkpoint.folder)
    from megatron.core import mpu

    # Ranks that share experts go in step, so they score the same parts; some of them may share
    # their rows too.
    share = max(1, settings.launch.expert_parallel // settings.launch.context_parallel)
    rank, size = mpu.get_data_parallel_rank() // share, mpu.get_data_parallel_world_size() // share
    writes = (
        mpu.is_pipeline_last_stage()
        and mpu.get_tensor_model_parallel_rank() == 0
        and mpu.get_context_parallel_rank() == 0
        and mpu.get_data_parallel_rank() % share == 0
    )
    files = record_files(payload.responses)
    reader = StudentReader(load_tokenizer(payload.model), settings, read_few_shot(payload.few_shot))
    scorer = partial(_score, model, reader, settings)
    for index in payload.parts[rank::size]:
        _score_part(files[index], index, settings, scorer, payload.out, writes)


def _score_part(
    file: Path, index: int, settings: ScoreStudent, scorer: Scorer, out: Path, writes: bool
) -> None:
    aside = SetAside(settings.on_malformed)
    scored = scorer(read_split(file, settings, aside), file)
    if writes:
        aside.counts["scored"] = len(scored)
        write_part(out, index, ScoredResponse, scored, aside.counts, aside.rows)


def _score(
    model: list[torch.nn.Module],
    reader: StudentReader,
    settings: ScoreStudent,
    records: list[FilteredResponse],
    file: Path,
) -> list[ScoredResponse]:
    """Score records; empty on ranks that do not hold the last pipeline stage."""
    examples = []
    for record in records:
        example = reader.encode(record)
        num_tokens = sum(map(len, example))
        if num_tokens > settings.batch_tokens:
            raise UserError(
                f"{file}: prompt {record.prompt.prompt_id}: {num_tokens} tokens are more than "
                f"batch_tokens {settings.batch_tokens}; raise it"
            )
        examples.append(example)
    logprobs = response_logprobs(model, examples, settings.batch_tokens, settings.launch)
    assert settings.checkpoint is not None  # or servers would score
    return [
        reader.scored(record, response_ids, values.tolist(), settings.checkpoint)
        for record, (_, response_ids), values in zip(records, examples, logprobs, strict=False)
    ]


def response_logprobs(
    model: list[torch.nn.Module],
    examples: list[tuple[list[int], list[int]]],
    batch_tokens: int,
    launch: Launch,
) -> list[np.ndarray]:
    """ln p of every response token given what precedes it.

    Args:
        model: this rank's model chunks.
        examples: (prompt token ids, response token ids).
        batch_tokens: positions of the longest packed row, before it is rounded up.
        launch: this program's layout.

    Returns:
        ``[len(response)]`` for each example; nothing on ranks without the last pipeline stage.
    """
    align, multiple = row_multiples(launch)
    slots = aligned(np.array([len(prompt) + len(response) for prompt, response in examples]), align)
    logprobs: dict[int, np.ndarray] = {}
    for members in best_fit_decreasing(slots, _rounded_up(batch_tokens, multiple)):
        tokens = [np.array(examples[m][0] + examples[m][1]) for m in members]
        documents = [{"tokens": t, "loss_mask": np.ones(len(t))} for t in tokens]
        row = packed_row(documents, _rounded_up(int(slots[members].sum()), multiple), align)
        losses = _token_losses(model, row)
        if losses is None:
            continue
        starts = row["cu_seqlens_padded"][:-1].tolist()
        for member, document, start in zip(members, tokens, starts, strict=True):
            first = start + len(examples[member][0]) - 1  # the position that predicts the response
            logprobs[int(member)] = -losses[first : start + len(document) - 1]
    return [logprobs[member] for member in sorted(logprobs)]


def row_multiples(launch: Launch) -> tuple[int, int]:
    """What a layout needs the documents' slots, and the rows, to be multiples of."""
    align = slot_multiple(launch.context_parallel)
    return align, math.lcm(_ROW_MULTIPLE, align * launch.tensor_parallel)


def _rounded_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


@torch.no_grad()
def _token_losses(model: list[torch.nn.Module], row: dict[str, np.ndarray]) -> np.ndarray | None:
    """-ln p(label) at every position, float64 ``[seq]``; None without the last pipeline stage.

    Runs Megatron's schedule, so that any pipeline layout works.
    """
    from megatron.core import mpu
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.training import get_args

    from megatron_dasd.losses.output_layer import token_losses
    from megatron_dasd.models.packed import Batch, for_rank, forward, own_share, to_batch

    processor = partial(token_losses, vocab_size=get_args().vocab_size)

    def step(
        rows: Iterator[Batch], chunk: torch.nn.Module
    ) -> tuple[Tensor, Callable[[Tensor, bool], Tensor]]:
        output: Tensor = forward(chunk, next(rows), output_processor=processor)
        return output, lambda output, non_loss_data: output

    rank, size = mpu.get_context_parallel_rank(), mpu.get_context_parallel_world_size()
    batch = own_share(to_batch(for_rank(row, rank, size)))
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
    if not outputs:
        return None
    losses: Tensor = outputs[0][0]
    if size > 1:
        shares = torch.empty(len(row["tokens"]), dtype=losses.dtype, device=losses.device)
        torch.distributed.all_gather_into_tensor(
            shares, losses.contiguous(), group=mpu.get_context_parallel_group()
        )
        losses = shares[row_order(row["cu_seqlens_padded"], size)]
    return losses.double().cpu().numpy()


if __name__ == "__main__":
    run_program(main)
