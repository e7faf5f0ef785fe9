"""Stage filter_responses: applies the rules to every response; counts and sets aside each drop.

A part of the result holds what was kept of one input file, in order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.filters.benchmarks import NOT_SHOWN, Benchmarks
from megatron_dasd.filters.case import Case, Tools, identity_of, make_case
from megatron_dasd.filters.report import collect, what_took_all, write_report
from megatron_dasd.filters.rules import first_reason
from megatron_dasd.filters.rules.contamination import contamination_of, searched_turns
from megatron_dasd.filters.token_counter import StudentTokenCounter
from megatron_dasd.manifests import model_folder
from megatron_dasd.printing import say
from megatron_dasd.progress import progress
from megatron_dasd.record_batches import read_batches
from megatron_dasd.records import FilteredResponse, Response
from megatron_dasd.records_io import SetAside, ignore_malformed, read_records, record_files
from megatron_dasd.text.chat import RefusedTurnsError
from megatron_dasd.text.encoding import load_tokenizer


def run(
    settings: FilterResponses, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, object]:
    """Filter the responses of all inputs into parts of :class:`FilteredResponse`."""
    tokenizer = load_tokenizer(model_folder(inputs[settings.student]))
    files = [file for name in settings.responses for file in record_files(inputs[name])]
    tools = Tools(
        StudentTokenCounter(tokenizer, settings.system_prompt, settings.chat_template_kwargs),
        _read_benchmarks(settings, inputs, files),
    )
    seen: set[bytes] = set()
    with progress("filtering", total=len(files), unit="files") as bar:
        for index, file in enumerate(files):
            if folder.has_part(index):
                for batch in read_batches(folder.written_part(index), FilteredResponse):
                    seen.update(identity_of(r, r.output) for r in batch.records)
            else:
                _filter_file(index, file, settings, tools, seen, folder)
            bar.advance(1)
    num_questions = tools.benchmarks.num_questions if tools.benchmarks else {}
    figures = collect(settings, folder, num_questions)
    write_report(folder, figures)
    if not figures["kept"] and (figures["malformed"] or any(figures["dropped"].values())):
        say(what_took_all(figures))
    return {
        "kept_share": figures["kept_share"],
        "dropped": figures["dropped"],
        "overlap": figures["overlap"],
    }


def _read_benchmarks(
    settings: FilterResponses, inputs: Mapping[str, Path], files: Sequence[Path]
) -> Benchmarks | None:
    """The benchmarks, without what many prompts of the files share."""
    if not settings.benchmarks and not settings.evaluated:
        return None
    paths = [inputs[name] for name in settings.benchmarks]
    evaluated = {str(name): inputs[reference] for name, reference in settings.evaluated.items()}
    benchmarks = Benchmarks.read(paths, settings.decontamination, evaluated)
    prompts = (
        turn
        for file in files
        for batch in read_batches(file, Response, ignore_malformed)
        for response in batch.records
        for turn in searched_turns(response.prompt)
    )
    return benchmarks.without_common_runs(prompts, settings.decontamination)


def _filter_file(
    index: int,
    file: Path,
    settings: FilterResponses,
    tools: Tools,
    seen: set[bytes],
    folder: StageFolder,
) -> None:
    """Judge the responses of one file; adds the identities of those that are kept to ``seen``."""
    aside, kept = SetAside(settings.on_malformed), []
    for response in read_records(file, Response, aside.malformed):
        case = make_case(response, settings, tools, seen)
        try:
            verdict = judge(case)
        except RefusedTurnsError as error:
            where = f"{file}: prompt {response.prompt.prompt_id}: {error}"
            aside.malformed(where, json.dumps(asdict(response), ensure_ascii=False))
            continue
        if isinstance(verdict, FilteredResponse):
            seen.add(case.identity)
            kept.append(verdict)
            aside.counts["kept"] += 1
            aside.counts[f"kept T={response.temperature:g}"] += 1
        else:
            reason, detail = verdict
            aside.drop(reason, response, _hiding(detail, case))
            aside.counts[f"dropped T={response.temperature:g}"] += 1
    folder.write_part(index, FilteredResponse, kept, aside.counts, aside.rows)


def _hiding(detail: str, case: Case) -> str:
    """What a rule found; of a response with words that must not be shown, where they are from."""
    found = contamination_of(case)
    return found if found and NOT_SHOWN in found else detail


def judge(case: Case) -> FilteredResponse | tuple[str, str]:
    """Apply the rules to one response.

    Returns:
        The record to keep; or (name of the rule that drops the response, what it found).
    """
    reason = first_reason(case)
    if reason or case.normalised is None:
        return reason or ("structure", "")
    return FilteredResponse(
        **{field.name: getattr(case.response, field.name) for field in fields(Response)},
        output=case.normalised.output,
        output_spans=case.normalised.output_spans,
        text_spans=case.normalised.text_spans,
    )
