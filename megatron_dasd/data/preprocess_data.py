"""Stage preprocess_data: responses to packed data, with the loss on the response.

Mixed-policy data takes off-policy responses beside it (``mix``), drawn without replacement.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_dasd.artifacts import StageFolder, model_folder
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.data.indexed import PackedDataWriter
from megatron_dasd.data.meta import DATA, Document, read_meta
from megatron_dasd.data.tokenizer import load_vocabulary
from megatron_dasd.errors import UserError
from megatron_dasd.progress import progress
from megatron_dasd.records import FilteredResponse
from megatron_dasd.records_io import SetAside, read_records, record_files
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode_example, end_of_turn_id


def run(
    settings: PreprocessData, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, Any]:
    """Write the packed data, and a record of every document beside it.

    Raises:
        UserError: no response is left to train on.
    """
    if not folder.has_part(0):
        _write(settings, inputs, folder)
    return asdict(read_meta(folder.path))


def _write(settings: PreprocessData, inputs: Mapping[str, Path], folder: StageFolder) -> None:
    tokenizer, vocab_size = load_vocabulary(model_folder(inputs[settings.model]))
    scratch = folder.scratch(DATA)
    writer = PackedDataWriter(
        scratch, settings.seq_length, vocab_size, eod_id=end_of_turn_id(tokenizer)
    )
    aside = SetAside(settings.on_malformed)

    def add(response: FilteredResponse, counted_as: str) -> None:
        token_ids, loss_mask = training_example(response, settings, tokenizer)
        if len(token_ids) > settings.seq_length:
            aside.drop("length", response)
            return
        writer.add(_name(response), token_ids, loss_mask)
        aside.counts[counted_as] += 1

    for _, response in _wanted(inputs[settings.responses], settings, aside, "tokenising"):
        add(response, "kept")
    if settings.mix:
        pool = inputs[settings.mix]
        num_wanted = round(settings.mix_ratio * aside.counts["kept"])
        drawn = _draw(pool, settings, aside, num_wanted)
        aside.counts["mix: wanted"] = num_wanted
        for number, response in _wanted(pool, settings, SetAside("set_aside"), "mixing in"):
            if number in drawn:
                add(response, "mix: kept")
    if not writer.documents:
        raise UserError(
            f"{inputs[settings.responses]}: no response left to train on ({dict(aside.counts)})"
        )
    writer.finish()
    folder.commit(scratch)
    folder.write_part(0, Document, writer.documents, aside.counts, aside.rows)


def training_example(
    response: FilteredResponse, settings: PreprocessData, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int]]:
    """Token ids of prompt and response, and the mask of the targets: 1 on the response.

    Returns:
        (ids [tokens], mask [tokens]); with ``mask_student_prefix`` the tokens that the student
        wrote itself are no targets either.
    """
    prompt = render_prompt(tokenizer, response.prompt.messages, settings.system_prompt)
    prompt_ids, response_ids = encode_example(
        tokenizer, prompt, response.output, response.student_prefix, response.student_prefix_ids
    )
    num_masked = len(response.student_prefix_ids) if settings.mask_student_prefix else 0
    mask = [0] * (len(prompt_ids) + num_masked) + [1] * (len(response_ids) - num_masked)
    return prompt_ids + response_ids, mask


def _wanted(
    path: Path, settings: PreprocessData, aside: SetAside, label: str
) -> Iterator[tuple[int, FilteredResponse]]:
    """The responses of the wanted split and temperature, numbered among the well-formed ones."""
    files = record_files(path)
    number = 0
    with progress(label, total=len(files), unit="files") as bar:
        for file in files:
            for response in read_records(file, FilteredResponse, aside.malformed):
                number += 1
                if settings.split not in ("all", response.prompt.split):
                    aside.counts[f"skipped: {response.prompt.split}"] += 1
                elif settings.temperature not in (None, response.temperature):
                    aside.counts[f"skipped: T={response.temperature:g}"] += 1
                else:
                    yield number, response
            bar.advance(1)


def _draw(pool: Path, settings: PreprocessData, aside: SetAside, num_wanted: int) -> set[int]:
    """Numbers of ``num_wanted`` responses of the pool, or of all there are.

    A response's place in the draw is a hash of what it is: responses added to the pool do not
    change how the others are ordered.
    """
    places = []
    for number, response in _wanted(pool, settings, aside, "drawing"):
        what = (response.prompt.prompt_id, response.temperature, response.candidate)
        places.append((derive_seed(settings.seed, "mix", *what), number))
    return {number for _, number in sorted(places)[:num_wanted]}


def _name(response: FilteredResponse) -> str:
    origin = "continuation" if response.student_prefix else "response"
    return f"{response.prompt.prompt_id} T={response.temperature:g} {origin} {response.candidate}"
