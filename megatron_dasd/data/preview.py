"""What a preprocess_data stage would train on, as text: prompt, target and mask of some records."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from megatron_dasd.arrays import Ints
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.data.examples import Example, ExampleMaker
from megatron_dasd.data.pieces import plan_shards
from megatron_dasd.data.responses import FIELDS, read_shard
from megatron_dasd.data.shards import name_of, skipped, tools, turns_of
from megatron_dasd.manifests import model_folder
from megatron_dasd.records_io import stop_on_malformed

_SHOWN = 2000
"""Characters shown of a part's beginning and of its end."""


def preview(settings: PreprocessData, inputs: Mapping[str, Path], number: int) -> Iterator[str]:
    """Yield a text for each of the first records that a stage would train on; nothing is written.

    The texts are the decoded ids, special tokens written out, so that they show what training reads
    and not what went in.  A warning follows where the template writes a conversation in another way
    than the model meets it at inference.

    Raises:
        UserError: as the stage itself.
    """
    own = tools(model_folder(inputs[settings.model]))
    maker = ExampleMaker(own.tokenizer, own.encoder_by("tokenizers"), settings)
    yield from islice(_previews(settings, inputs[settings.responses], maker), number)


def _previews(settings: PreprocessData, responses: Path, maker: ExampleMaker) -> Iterator[str]:
    for shard in plan_shards(responses):
        for batch in read_shard(shard, FIELDS, stop_on_malformed):
            for row, reason in enumerate(skipped(batch, settings)):
                if reason:
                    continue
                try:
                    turns = turns_of(batch, row, maker)
                except ValueError as error:
                    where = f"{batch.file}: record {batch.numbers[row]}: {error}"
                    stop_on_malformed(where, "")
                (example,) = maker.examples([turns])
                warning = turns.laid.warning
                yield _shown(
                    name_of(batch, row), example, settings.seq_length, warning, maker.decode
                )


def _shown(
    name: str, example: Example, seq_length: int, warning: str, decode: Callable[[Ints], str]
) -> str:
    ids = np.concatenate([example.prompt_ids, example.response_ids])
    first = int(np.argmax(example.loss_mask)) if example.loss_mask.any() else ids.size
    lines = [f"== {name}: {ids.size} tokens, {int(example.loss_mask.sum())} of them targets"]
    lines += [f"-- prompt, no loss, {first} tokens", _cut(decode(ids[:first]))]
    lines += [f"-- target, {ids.size - first} tokens", _cut(decode(ids[first:]))]
    if ids.size > seq_length:
        lines.append(f"warning: longer than seq_length {seq_length}: it would be dropped")
    if not example.loss_mask[first:].all():
        lines.append("note: a part of the target has no loss (mask_student_prefix)")
    if warning:
        lines.append(f"warning: training reads what inference does, but {warning}")
    return "\n".join(lines)


def _cut(text: str) -> str:
    if len(text) <= 2 * _SHOWN:
        return text
    return f"{text[:_SHOWN]}\n[... {len(text) - 2 * _SHOWN:,} characters ...]\n{text[-_SHOWN:]}"
