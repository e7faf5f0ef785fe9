"""Stage filter_responses: the rules over every response, each drop counted and set aside.

A part of the result holds what was kept of one file of the inputs, in order.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_dasd.artifacts import StageFolder, model_folder
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.filters import rules
from megatron_dasd.progress import progress
from megatron_dasd.records import FilteredResponse, Response
from megatron_dasd.records_io import SetAside, read_records, record_files
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode_example, load_tokenizer


def run(
    settings: FilterResponses, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, Any]:
    """Filter the responses of all inputs into parts of :class:`FilteredResponse`."""
    tokenizer = load_tokenizer(model_folder(inputs[settings.student]))
    files = [file for name in settings.responses for file in record_files(inputs[name])]
    seen: set[bytes] = set()
    with progress("filtering", total=len(files), unit="files") as bar:
        for index, file in enumerate(files):
            if folder.has_part(index):
                written = read_records(folder.part_path(index), FilteredResponse)
                seen.update(_identity(response, response.output) for response in written)
            else:
                _filter_file(index, file, settings, tokenizer, seen, folder)
            bar.advance(1)
    counts = folder.tally()
    judged = counts["kept"] + sum(n for name, n in counts.items() if name.startswith("dropped: "))
    return {"kept_share": counts["kept"] / judged if judged else None}


def _filter_file(
    index: int,
    file: Path,
    settings: FilterResponses,
    tokenizer: PreTrainedTokenizerBase,
    seen: set[bytes],
    folder: StageFolder,
) -> None:
    """Judge one file's responses; ``seen`` grows by what is kept."""
    aside, kept = SetAside(settings.on_malformed), []
    for response in read_records(file, Response, aside.malformed):
        verdict = judge(response, settings, tokenizer)
        if isinstance(verdict, FilteredResponse):
            identity = _identity(verdict, verdict.output)
            if identity not in seen:
                seen.add(identity)
                kept.append(verdict)
                aside.counts["kept"] += 1
                aside.counts[f"kept T={response.temperature:g}"] += 1
                continue
            verdict = "duplicate"
        aside.drop(verdict, response)
        aside.counts[f"dropped T={response.temperature:g}"] += 1
    folder.write_part(index, FilteredResponse, kept, aside.counts, aside.rows)


def judge(
    response: Response, settings: FilterResponses, tokenizer: PreTrainedTokenizerBase
) -> FilteredResponse | rules.Reason:
    """Ask every rule that needs this response alone: what to keep of it, or why to drop it."""
    normalised = rules.normalise_response(response, settings.thinking)
    reason = rules.text_reason(response, normalised, settings.thinking)
    if reason or normalised is None:
        return reason or "structure"
    prompt_ids, response_ids = encode_example(
        tokenizer,
        render_prompt(tokenizer, response.prompt.messages, settings.system_prompt),
        normalised.output,
        response.student_prefix,
        response.student_prefix_ids,
    )
    if len(prompt_ids) + len(response_ids) > settings.max_length:
        return "length"
    if rules.is_repetitive(rules.contents(normalised), settings.repetition):
        return "repetition"
    return FilteredResponse(
        **{field.name: getattr(response, field.name) for field in fields(Response)},
        output=normalised.output,
        output_spans=normalised.output_spans,
        text_spans=normalised.text_spans,
    )


def _identity(response: Response, output: str) -> bytes:
    """What two responses share when the later one is a duplicate."""
    what = [response.prompt.prompt_id, f"{response.temperature!r}", output]
    return hashlib.blake2b("\0".join(what).encode(), digest_size=16).digest()
