"""Stage select_das: of each prompt's candidates at each temperature, those that teach most.

The inputs are read twice: once to compare teacher and student in every candidate, of which a few
numbers stay in memory, and once to write what was chosen.  Candidates of one prompt may therefore
lie anywhere in the inputs.  A part of the result holds what was chosen from one file, in order.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence.provenance import CLASSES, Ints, compare_sentences
from megatron_dasd.divergence.selection import Strategy, select
from megatron_dasd.progress import progress
from megatron_dasd.records import ScoredResponse, SelectedResponse
from megatron_dasd.records_io import SetAside, read_records, record_files
from megatron_dasd.seeds import derive_seed

GAP_EDGES = np.arange(-10, 11) / 10
"""Borders of the histogram of p_T - p_S."""
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Candidate:
    """What selection needs to know of a response."""

    file: int
    record: int
    """Its place among the well-formed records of the file."""
    prompt_id: str
    temperature: float
    classes: tuple[int, ...]
    """Sentences by class, in the order of ``CLASSES``."""
    num_tokens: int
    tie_break: int

    @property
    def group(self) -> tuple[str, float]:
        """Candidates of one group stand against each other."""
        return self.prompt_id, self.temperature


@dataclass
class Survey:
    """What the first reading finds."""

    candidates: list[Candidate] = field(default_factory=list)
    aside: list[SetAside] = field(default_factory=list)
    """[files]"""
    gaps: Ints = field(default_factory=lambda: np.zeros(GAP_EDGES.size - 1, dtype=np.int64))
    """[bins] sentences by p_T - p_S."""


def run(settings: SelectDas, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
    """Select; the figures describe all candidates and the chosen ones."""
    files = record_files(inputs[settings.responses])
    with progress("comparing", total=len(files), unit="files") as bar:
        survey = Survey()
        for index, file in enumerate(files):
            _survey_file(index, file, settings, survey)
            bar.advance(1)
    groups = group_candidates(survey.candidates)
    chosen = [g[i] for g in groups for i in choose(g, settings.strategy, settings.keep)]
    records: defaultdict[int, set[int]] = defaultdict(set)
    for candidate in chosen:
        records[candidate.file].add(candidate.record)
    with progress("selecting", total=len(files), unit="files") as bar:
        for index, file in enumerate(files):
            if not folder.has_part(index):
                _write_chosen(index, file, records[index], settings, survey, folder)
            bar.advance(1)
    return {
        **class_figures(survey.candidates, chosen),
        **confounding(groups),
        "gap_histogram": {"edges": GAP_EDGES.tolist(), "counts": survey.gaps.tolist()},
        "examples": _examples(folder.path),
    }


def _survey_file(index: int, file: Path, settings: SelectDas, survey: Survey) -> None:
    """Compare the models in every training response of a file."""
    aside = SetAside(settings.on_malformed)
    survey.aside.append(aside)
    for number, response in enumerate(read_records(file, ScoredResponse, aside.malformed)):
        prompt = response.prompt
        if prompt.split != "train":
            aside.counts["skipped: heldout"] += 1
            continue
        try:
            sentences, num_tokens = compare_sentences(response, settings.beta)
        except ValueError as error:
            where = f"{file}: prompt {prompt.prompt_id}, candidate {response.candidate}"
            aside.malformed(f"{where}: field {error}", response.text)
            continue
        found = Counter(sentence.provenance for sentence in sentences)
        draw = ("select_das", prompt.prompt_id, response.temperature, response.candidate)
        survey.candidates.append(
            Candidate(
                file=index,
                record=number,
                prompt_id=prompt.prompt_id,
                temperature=response.temperature,
                classes=tuple(found[name] for name in CLASSES),
                num_tokens=num_tokens,
                tie_break=derive_seed(settings.seed, *draw),
            )
        )
        gaps = [s.teacher_probability - s.student_probability for s in sentences]
        survey.gaps += np.histogram(gaps, bins=GAP_EDGES)[0]


def _write_chosen(
    index: int,
    file: Path,
    records: set[int],
    settings: SelectDas,
    survey: Survey,
    folder: StageFolder,
) -> None:
    """Write the chosen records of a file, and what the survey set aside of it."""
    kept = []
    already_heard = SetAside("set_aside")
    for number, response in enumerate(read_records(file, ScoredResponse, already_heard.malformed)):
        if number in records:
            sentences, _ = compare_sentences(response, settings.beta)
            given = {f.name: getattr(response, f.name) for f in fields(ScoredResponse)}
            kept.append(SelectedResponse(**given, sentences=sentences))
    aside = survey.aside[index]
    num_candidates = sum(candidate.file == index for candidate in survey.candidates)
    aside.counts["kept"] += len(kept)
    aside.counts["dropped: not selected"] += num_candidates - len(kept)
    folder.write_part(index, SelectedResponse, kept, aside.counts, aside.rows)


def group_candidates(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates of one prompt and temperature together, wherever they lie."""
    groups: defaultdict[tuple[str, float], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.group].append(candidate)
    return list(groups.values())


def choose(group: Sequence[Candidate], strategy: Strategy, keep: int) -> Ints:
    """Indices of the chosen candidates of a group, the best first."""
    classes = np.array([candidate.classes for candidate in group], dtype=np.int64)
    return select(
        strategy,
        num_teacher_sentences=classes[:, CLASSES.index("teacher")],
        num_sentences=classes.sum(axis=1),
        num_tokens=np.array([candidate.num_tokens for candidate in group], dtype=np.int64),
        tie_break=np.array([candidate.tie_break for candidate in group], dtype=np.int64),
        keep=keep,
    )


def class_figures(candidates: Sequence[Candidate], chosen: Sequence[Candidate]) -> dict[str, Any]:
    """Sentences by class among all candidates, by temperature, and among the chosen."""
    temperatures = sorted({candidate.temperature for candidate in candidates})
    return {
        "sentence_classes": _class_counts(candidates),
        "sentence_classes_by_temperature": {
            f"{t:g}": _class_counts([c for c in candidates if c.temperature == t])
            for t in temperatures
        },
        "sentence_classes_kept": _class_counts(chosen),
    }


def _class_counts(candidates: Sequence[Candidate]) -> dict[str, int]:
    return {name: sum(c.classes[i] for c in candidates) for i, name in enumerate(CLASSES)}


def confounding(groups: Sequence[Sequence[Candidate]]) -> dict[str, Any]:
    """How often the first choice by ``count`` is another than by ``longest``.

    Length and count of teacher sentences go together; were the choices always the same, selection
    would be by length.  Among short responses equal counts are common and the tie-break decides:
    ``count_exceeds_longest`` is the share in which the choice has more teacher sentences than the
    longest response.  Shares of the groups of at least 2 candidates; None without any.
    """
    compared = [group for group in groups if len(group) >= 2]
    differ = exceed = 0
    for group in compared:
        by_count, by_length = (int(choose(group, s, keep=1)[0]) for s in ("count", "longest"))
        differ += by_count != by_length
        exceed += _num_teacher(group[by_count]) > _num_teacher(group[by_length])
    return {
        "count_differs_from_longest": differ / len(compared) if compared else None,
        "count_exceeds_longest": exceed / len(compared) if compared else None,
        "groups": len(groups),
        "groups_compared": len(compared),
    }


def _num_teacher(candidate: Candidate) -> int:
    return candidate.classes[CLASSES.index("teacher")]


def _examples(path: Path) -> list[dict[str, Any]]:
    """The first chosen responses, sentence by sentence."""
    return [
        {
            "prompt": response.prompt.messages[-1].content,
            "temperature": response.temperature,
            "sentences": [asdict(sentence) for sentence in response.sentences],
        }
        for response in islice(read_records(path, SelectedResponse), NUM_EXAMPLES)
    ]
