"""``report.html`` and ``report.json`` of the filters: what each rule dropped, with examples."""

import json
from collections.abc import Iterator, Mapping
from typing import TypedDict

from pydantic import BaseModel

from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.filters.benchmarks import NOT_SHOWN, QUESTION
from megatron_dasd.filters.case import FilterRule
from megatron_dasd.filters.rules import RULES
from megatron_dasd.filters.rules.contamination import CONTAMINATION
from megatron_dasd.manifests import SET_ASIDE, part_files
from megatron_dasd.pages.render import render
from megatron_dasd.records_io import open_parquet, parquet_errors

NUM_EXAMPLES = 3
"""Dropped responses shown for each rule."""
SHOWN = 400
"""Characters shown of an example's beginning and of its end."""
_HIDDEN = "[not shown: holds words of a question that is to be shown nowhere]"
DROPPED = "dropped: "
"""Prefix of the counters that ``SetAside.drop`` keeps."""


class Example(TypedDict):
    """A dropped response."""

    prompt_id: str
    temperature: float
    candidate: int
    found: str | None
    """What the rule found."""
    begins: str
    ends: str
    """Empty when ``begins`` is the whole text."""
    characters: int


class Overlap(TypedDict):
    """How much of a benchmark's questions occurs in the data."""

    questions: int
    """Of the benchmark."""
    found: int
    """Different ones of which a run of words occurs in a response or its prompt."""
    responses: int
    """Dropped for such a run."""


class FilterFigures(TypedDict):
    """Content of ``report.json``."""

    kept: int
    kept_share: float | None
    """Of the responses that were judged; None without any."""
    malformed: int
    dropped: dict[str, int]
    """Responses by rule, in the order of the rules."""
    settings: dict[str, dict[str, object]]
    """By rule, the settings that it depends on."""
    by_temperature: dict[str, dict[str, int]]
    """``kept`` and ``dropped``, each by temperature."""
    examples: dict[str, list[Example]]
    """By rule, the first responses that it dropped."""
    overlap: dict[str, Overlap]
    """Of each evaluated benchmark with the responses that were filtered, by its title.  None of
    these responses is kept."""


class _Record(TypedDict):
    """The fields of a dropped response that an example shows."""

    prompt: dict[str, object]
    temperature: float
    candidate: int
    text: str
    student_prefix: str


class _Row(TypedDict):
    """A row of ``set_aside-*.parquet``."""

    reason: str
    detail: str | None
    record: str
    """The dropped record as JSON."""


def collect(
    settings: FilterResponses, folder: StageFolder, num_questions: Mapping[str, int]
) -> FilterFigures:
    """Collect the figures of a finished stage folder.

    Args:
        settings: the stage's.
        folder: the stage's.
        num_questions: of the evaluated benchmarks, by title.
    """
    counts = folder.tally()
    dropped = {rule.name: counts[f"{DROPPED}{rule.name}"] for rule in RULES}
    judged = counts["kept"] + sum(dropped.values())
    return {
        "kept": counts["kept"],
        "kept_share": counts["kept"] / judged if judged else None,
        "malformed": counts["malformed"],
        "dropped": dropped,
        "settings": {rule.name: settings_of(rule, settings) for rule in RULES},
        "by_temperature": {
            name: dict(_by_temperature(counts, name)) for name in ("kept", "dropped")
        },
        "examples": _examples(folder),
        "overlap": _overlap(folder, num_questions),
    }


def write_report(folder: StageFolder, figures: FilterFigures) -> None:
    """Write both files; the JSON holds the figures as they are."""
    folder.write_json("report.json", figures)
    descriptions = {rule.name: rule.description for rule in RULES}
    page = render("filters", "report.html.j2", figures=figures, descriptions=descriptions)
    write_atomic(folder.path / "report.html", page.encode())


def what_took_all(figures: FilterFigures) -> str:
    """One line for a stage that kept nothing: which rule took what, and which setting decides."""
    taken = []
    for rule in RULES:
        if count := figures["dropped"][rule.name]:
            names = ", ".join(rule.settings) or "none"
            how = HOW_TO_KEEP.get(rule.name, f"settings: {names}")
            taken.append(f"{rule.name} took {count} ({how})")
    if figures["malformed"]:
        taken.append(f"{figures['malformed']} malformed (set_aside-*.parquet says why)")
    return f"no response is left: {'; '.join(taken)}"


HOW_TO_KEEP = {
    "structure": "no thinking part: thinking: null keeps plain answers, thinking: {required: false}"
    " both",
    "tool_call": "tool_calls: keep lets them through",
    "length": "raise max_length",
}
"""By rule, the setting that lets responses through."""


def settings_of(rule: FilterRule, settings: FilterResponses) -> dict[str, object]:
    """Names and values of the settings that a rule depends on; nested ones are spread out."""
    found: dict[str, object] = {}
    for path in rule.settings:
        *outer, name = path.split(".")
        value: object = settings
        for part in [*outer, name]:
            value = getattr(value, part)
        found |= value.model_dump() if isinstance(value, BaseModel) else {name: value}
    return found


def _by_temperature(counts: Mapping[str, int], name: str) -> Iterator[tuple[str, int]]:
    start = f"{name} T="
    found = [(key.removeprefix(start), n) for key, n in counts.items() if key.startswith(start)]
    yield from sorted(found, key=lambda item: float(item[0]))


def _overlap(folder: StageFolder, num_questions: Mapping[str, int]) -> dict[str, Overlap]:
    """What the rule against contamination found of each evaluated benchmark."""
    found: dict[str, list[str]] = {title: [] for title in num_questions}
    for row in _rows(folder):
        # a prompt's own text may come before, and hold anything
        benchmark, mark, question = (row["detail"] or "").rpartition(QUESTION)
        title = benchmark.rpartition(" of ")[2]
        if row["reason"] == CONTAMINATION.name and mark and title in found:
            found[title].append(question)
    return {
        title: {
            "questions": num_questions[title],
            "found": len({*questions}),
            "responses": len(questions),
        }
        for title, questions in found.items()
    }


def _rows(folder: StageFolder) -> Iterator[_Row]:
    """The dropped responses."""
    for path in part_files(folder.path, SET_ASIDE):
        with parquet_errors(path):
            for batch in open_parquet(path).iter_batches(batch_size=64):
                yield from batch.to_pylist()


def _examples(folder: StageFolder) -> dict[str, list[Example]]:
    """The first dropped responses under each reason."""
    names = {rule.name for rule in RULES}
    found: dict[str, list[Example]] = {}
    for row in _rows(folder):
        examples = found.setdefault(row["reason"], [])
        if row["reason"] in names and len(examples) < NUM_EXAMPLES:
            examples.append(_example(row))
    return {name: examples for name, examples in sorted(found.items()) if examples}


def _example(row: _Row) -> Example:
    record: _Record = json.loads(row["record"])
    text = record["student_prefix"] + record["text"]
    if NOT_SHOWN in (row["detail"] or ""):
        text = _HIDDEN
    cut = len(text) > 2 * SHOWN
    return {
        "prompt_id": str(record["prompt"]["prompt_id"]),
        "temperature": record["temperature"],
        "candidate": record["candidate"],
        "found": row["detail"],
        "begins": text[:SHOWN] if cut else text,
        "ends": text[-SHOWN:] if cut else "",
        "characters": len(text),
    }
