"""Stage filter_responses: the rules over every response, each drop counted and set aside.

A part of the result holds what was kept of one file of the inputs, in order.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.filters import rules
from megatron_dasd.filters.contamination import Benchmarks
from megatron_dasd.filters.lengths import Lengths
from megatron_dasd.filters.report import collect, write_report
from megatron_dasd.manifests import model_folder
from megatron_dasd.progress import progress
from megatron_dasd.record_batches import read_batches
from megatron_dasd.records import FilteredResponse, Response
from megatron_dasd.records_io import SetAside, read_records, record_files
from megatron_dasd.text.encoding import load_tokenizer


@dataclass(frozen=True)
class _Judge:
    """What all responses are judged with."""

    settings: FilterResponses
    lengths: Lengths
    benchmarks: Benchmarks | None


def run(
    settings: FilterResponses, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, Any]:
    """Filter the responses of all inputs into parts of :class:`FilteredResponse`."""
    paths = [inputs[name] for name in settings.benchmarks]
    tokenizer = load_tokenizer(model_folder(inputs[settings.student]))
    judge_with = _Judge(
        settings,
        Lengths(tokenizer, settings.system_prompt),
        Benchmarks.read(paths, settings.decontamination) if paths else None,
    )
    files = [file for name in settings.responses for file in record_files(inputs[name])]
    seen: set[bytes] = set()
    with progress("filtering", total=len(files), unit="files") as bar:
        for index, file in enumerate(files):
            if folder.has_part(index):
                for batch in read_batches(folder.part_path(index), FilteredResponse):
                    seen.update(_identity(r, r.output) for r in batch.records)
            else:
                _filter_file(index, file, judge_with, seen, folder)
            bar.advance(1)
    figures = collect(settings, folder)
    write_report(folder, figures)
    return {name: figures[name] for name in ("kept_share", "dropped")}


def _filter_file(
    index: int, file: Path, judge_with: _Judge, seen: set[bytes], folder: StageFolder
) -> None:
    """Judge one file's responses; ``seen`` grows by what is kept."""
    aside, kept = SetAside(judge_with.settings.on_malformed), []
    for response in read_records(file, Response, aside.malformed):
        verdict = judge(response, **vars(judge_with))
        if isinstance(verdict, FilteredResponse):
            identity = _identity(verdict, verdict.output)
            if identity not in seen:
                seen.add(identity)
                kept.append(verdict)
                aside.counts["kept"] += 1
                aside.counts[f"kept T={response.temperature:g}"] += 1
                continue
            verdict = rules.DUPLICATE, "the same text as another candidate's"
        reason, detail = verdict
        aside.drop(reason, response, detail)
        aside.counts[f"dropped T={response.temperature:g}"] += 1
    folder.write_part(index, FilteredResponse, kept, aside.counts, aside.rows)


def judge(
    response: Response,
    settings: FilterResponses,
    lengths: Lengths,
    benchmarks: Benchmarks | None = None,
) -> FilteredResponse | tuple[str, str]:
    """Ask every rule that needs this response alone.

    Returns:
        What to keep of it; or (name of the rule that drops it, what it found).
    """
    case = rules.make_case(response, settings, benchmarks, lengths)
    reason = rules.first_reason(case)
    if reason or case.normalised is None:
        return reason or ("structure", "")
    return FilteredResponse(
        **{field.name: getattr(response, field.name) for field in fields(Response)},
        output=case.normalised.output,
        output_spans=case.normalised.output_spans,
        text_spans=case.normalised.text_spans,
    )


def _identity(response: Response, output: str) -> bytes:
    """What two responses share when the later one is a duplicate: all but whitespace."""
    what = [response.prompt.prompt_id, f"{response.temperature!r}", " ".join(output.split())]
    return hashlib.blake2b("\0".join(what).encode(), digest_size=16).digest()
