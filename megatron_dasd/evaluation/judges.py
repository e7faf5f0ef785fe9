"""Answers for other programs to judge, and their marks beside ours.

- ``sgl-eval`` (and NeMo-Skills, whose graders it holds) keeps predictions as
  ``output-rs<sample>.jsonl``: ``id``, ``problem``, ``expected_answer``, ``generation``, and once
  judged ``symbolic_correct``.
- ``lm-eval --log_samples`` keeps ``samples_<task>_<time>.jsonl``: ``doc``, ``doc_id``, ``metrics``,
  and each metric by its name.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.benchmarks.asked import is_private
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.accuracy import verdict
from megatron_dasd.evaluation.graders import answer_of
from megatron_dasd.json_values import JsonObject
from megatron_dasd.records import Graded
from megatron_dasd.records_io import numbered_rows, parse_line, read_records

Marks = dict[tuple[str, int], bool]
"""Whether an answer is right, by question and number of the sample."""
_PREDICTIONS = "output-rs"


def export_answers(graded: Iterable[Graded], folder: Path) -> list[Path]:
    """Write the answers in sgl-eval's layout: ``<benchmark>/<model>/output-rs<sample>.jsonl``.

    A text that is not in the normalised form has no answer.  Questions that are shown nowhere are
    left out of the files; their answers and letters are not.

    Returns:
        The folders of the models.
    """
    lines: dict[Path, list[str]] = {}
    for one in graded:
        place = folder / one.prompt.domain / one.model / f"{_PREDICTIONS}{one.sample}.jsonl"
        row = {
            "id": one.prompt.prompt_id,
            "problem": "" if is_private(one.prompt) else one.prompt.messages[-1].content,
            "expected_answer": one.prompt.reference_answer,
            "generation": answer_of(one.text) or "",
            "finish_reason": one.finish_reason,
            "num_generated_tokens": one.num_tokens,
        }
        lines.setdefault(place, []).append(json.dumps(row, ensure_ascii=True))
    for place, rows in lines.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, "".join(f"{row}\n" for row in rows).encode())
    return sorted({place.parent for place in lines})


def own_marks(stage: Path, benchmark: str, model: str) -> Marks:
    """The marks of an evaluate stage.

    Raises:
        UserError: the stage holds no such answers.
    """
    marks = {
        (one.prompt.prompt_id, one.sample): verdict(one) == "right"
        for one in read_records(stage, Graded)
        if one.prompt.domain == benchmark and one.model == model
    }
    if not marks:
        raise UserError(f"{stage}: holds no answer of {model} to {benchmark}")
    return marks


def read_marks(path: Path) -> Marks:
    """The marks that another program gave: a folder of sgl-eval's, or a file of lm-eval's.

    Raises:
        UserError: the path holds neither, or a row lacks a mark.
    """
    files = sorted(path.glob(f"{_PREDICTIONS}*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise UserError(f"{path}: no {_PREDICTIONS}*.jsonl here, and no file of lm-eval's samples")
    marks: Marks = {}
    for file in files:
        number = file.stem.removeprefix(_PREDICTIONS)
        sample = int(number) if number.isdigit() else 0
        for record, row in numbered_rows(file):
            try:
                parsed = parse_line(row) if isinstance(row, str) else row
                question, right = _mark(parsed)
            except ValueError as error:
                raise UserError(f"{file}: record {record}: {error}") from None
            marks[question, sample] = right
    return marks


def differences(own: Mapping[tuple[str, int], bool], other: Marks) -> list[str]:
    """A line for each answer on which two programs differ.

    Raises:
        UserError: they have no answer in common.
    """
    shared = sorted(own.keys() & other.keys())
    if not shared:
        raise UserError("the two have no answer in common; are the questions' ids the same?")
    word = {True: "right", False: "wrong"}
    found = [
        f"{question}, sample {sample}: {word[own[question, sample]]} here, "
        f"{word[other[question, sample]]} there"
        for question, sample in shared
        if own[question, sample] != other[question, sample]
    ]
    return [f"{len(shared)} answers, {len(found)} judged differently", *found]


def _mark(row: JsonObject) -> tuple[str, bool]:
    if isinstance(right := row.get("symbolic_correct"), bool):
        return str(row.get("id")), right
    metrics = row.get("metrics")
    if isinstance(metrics, list) and metrics:
        value = row.get(str(metrics[0]))
        document = row.get("doc")
        named = document.get("id") if isinstance(document, dict) else None
        if isinstance(value, int | float):
            return str(row.get("doc_id") if named is None else named), value == 1
    raise ValueError("holds no mark (symbolic_correct of sgl-eval, metrics of lm-eval)")
