"""``report.html`` and ``report.json`` of the filters: what each rule dropped, with examples."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.filters.rules import DUPLICATE, LENGTH, RULES
from megatron_dasd.manifests import SET_ASIDE, part_files
from megatron_dasd.pages.render import render

NUM_EXAMPLES = 3
SHOWN = 400
"""Characters of an example's beginning and of its end."""
DROPPED = "dropped: "
_DESCRIPTIONS = {
    "truncation": "cut off by the token limit",
    "tool_call": "calls a tool or a function",
    "structure": "no thinking part, or no answer after it",
    "control_marker": "a delimiter or control token inside thinking part or answer",
    "loop": "thinking part or answer ends with one piece over and over",
    "repeated_line": "one line too often",
    "repeated_paragraph": "one paragraph too often",
    "repeated_sentence": "one sentence too often",
    "repeated_ngram": "one run of words too often",
    "contamination": "words of a benchmark in prompt or response",
    LENGTH: "longer than the training context in the student's tokens",
    DUPLICATE: "the same text, but for whitespace, as another candidate's",
}


def collect(settings: FilterResponses, folder: StageFolder) -> dict[str, Any]:
    """All figures, as JSON values; an example tells what was found and how the text goes."""
    counts = folder.tally()
    dropped = {name: counts[f"{DROPPED}{name}"] for name in [*RULES, DUPLICATE]}
    judged = counts["kept"] + sum(dropped.values())
    return {
        "kept": counts["kept"],
        "kept_share": counts["kept"] / judged if judged else None,
        "malformed": counts["malformed"],
        "dropped": dropped,
        "settings": {name: _settings_of(name, settings) for name in dropped},
        "by_temperature": {
            name: dict(_by_temperature(counts, name)) for name in ("kept", "dropped")
        },
        "examples": _examples(folder),
    }


def write_report(folder: StageFolder, figures: Mapping[str, Any]) -> None:
    """Write both files; the JSON holds the figures as they are."""
    folder.write_json("report.json", figures)
    page = render("filters", "report.html.j2", figures=figures, descriptions=_DESCRIPTIONS)
    write_atomic(folder.path / "report.html", page.encode())


def _settings_of(rule: str, settings: FilterResponses) -> dict[str, Any]:
    """The settings that a rule goes by."""
    bounds = settings.repetition.model_dump()
    names = {
        "loop": ["loop_repeats", "loop_characters"],
        "repeated_line": ["max_repeated_lines", "max_share"],
        "repeated_paragraph": ["max_repeated_paragraphs", "max_share"],
        "repeated_sentence": ["max_repeated_sentences", "max_share"],
        "repeated_ngram": ["ngram_words", "max_ngram_count", "max_share"],
    }
    if rule in names:
        return {name: bounds[name] for name in names[rule]}
    if rule == "contamination":
        return {"benchmarks": settings.benchmarks, **settings.decontamination.model_dump()}
    if rule in ("structure", "control_marker"):
        return settings.thinking.model_dump()
    return {"max_length": settings.max_length} if rule == LENGTH else {}


def _by_temperature(counts: Mapping[str, int], name: str) -> Iterator[tuple[str, int]]:
    start = f"{name} T="
    found = [(key.removeprefix(start), n) for key, n in counts.items() if key.startswith(start)]
    yield from sorted(found, key=lambda item: float(item[0]))


def _examples(folder: StageFolder) -> dict[str, list[dict[str, Any]]]:
    """The first dropped responses under each reason."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in part_files(folder.path, SET_ASIDE):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                examples = found.setdefault(row["reason"], [])
                if row["reason"] in _DESCRIPTIONS and len(examples) < NUM_EXAMPLES:
                    examples.append(_example(row))
    return {name: examples for name, examples in sorted(found.items()) if examples}


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    record = json.loads(row["record"])
    text = record["student_prefix"] + record["text"]
    cut = len(text) > 2 * SHOWN
    return {
        "prompt_id": record["prompt"]["prompt_id"],
        "temperature": record["temperature"],
        "candidate": record["candidate"],
        "found": row["detail"],
        "begins": text[:SHOWN] if cut else text,
        "ends": text[-SHOWN:] if cut else "",
        "characters": len(text),
    }
