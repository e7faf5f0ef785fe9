"""Stage filter_responses: applies the rules to every response; counts and sets aside each drop.

A part of the result holds what was kept of one input file, or of one piece of a large one, in
order.  The pieces are cut by the files alone, so the result is the same byte for byte for any
number of processes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.data.pieces import Piece, cut_file
from megatron_dasd.filters.benchmarks import common_runs
from megatron_dasd.filters.judging import (
    Copies,
    Identities,
    Judge,
    PieceJob,
    SettleJob,
    forget,
    judge_piece,
    read_benchmarks,
    runs_in_prompts,
    settle_piece,
    tools_of,
)
from megatron_dasd.filters.report import collect, what_took_all, write_report
from megatron_dasd.filters.token_counter import library_for
from megatron_dasd.manifests import model_folder
from megatron_dasd.printing import say
from megatron_dasd.progress import Bar, progress
from megatron_dasd.records_io import record_files
from megatron_dasd.text.bulk import ExactnessError
from megatron_dasd.workers import Workers

_SCRATCH = ".judged.tmp"
"""Deleted when the stage finishes, as everything that ends in ``.tmp``."""
_INEXACT = "inexact"
"""File in that folder that exists once ``gigatoken`` was found to give wrong ids."""


def run(
    settings: FilterResponses, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, object]:
    """Filter the responses of all inputs into parts of :class:`FilteredResponse`."""
    files = [file for name in settings.responses for file in record_files(inputs[name])]
    pieces = [piece for file in files for piece in cut_file(file)]
    scratch = folder.path / _SCRATCH
    scratch.mkdir(exist_ok=True)
    forget()
    student = model_folder(inputs[settings.student])
    library, reason = library_for(student)
    if (scratch / _INEXACT).exists():
        library, reason = "tokenizers", (scratch / _INEXACT).read_text()
    if reason:
        say(f"tokenising with tokenizers, not gigatoken: {reason}")
    benchmarks = Copies(
        tuple(inputs[name] for name in settings.benchmarks),
        tuple((str(name), inputs[copy]) for name, copy in settings.evaluated.items()),
    )
    judge = Judge(settings, student, benchmarks, frozenset(), library, folder.path, scratch)
    judge = replace(judge, common=_common_runs(judge, pieces))
    try:
        _filter(judge, pieces)
    except ExactnessError as error:
        say(f"starting again with tokenizers, not gigatoken: {error}")
        folder.delete_parts()
        for judged in scratch.iterdir():
            judged.unlink()
        write_atomic(scratch / _INEXACT, str(error).encode())  # last: all before it is deleted
        _filter(replace(judge, library="tokenizers"), pieces)
    read = read_benchmarks(benchmarks, settings)
    figures = collect(settings, folder, read.num_questions if read else {})
    write_report(folder, figures)
    if not figures["kept"] and (figures["malformed"] or any(figures["dropped"].values())):
        say(what_took_all(figures))
    return {
        "kept_share": figures["kept_share"],
        "dropped": figures["dropped"],
        "overlap": figures["overlap"],
    }


def _common_runs(judge: Judge, pieces: Sequence[Piece]) -> frozenset[int]:
    """The benchmarks' runs of words that many prompts of the pieces share."""
    settings = judge.settings
    if read_benchmarks(judge.benchmarks, settings) is None:
        return frozenset()
    jobs = (PieceJob(judge, index, piece) for index, piece in enumerate(pieces))
    with (
        Workers(settings.num_workers, len(pieces)) as workers,
        progress("reading prompts", total=len(pieces), unit="pieces") as bar,
    ):
        found = workers.in_order(runs_in_prompts, jobs)
        return common_runs(_counted(found, bar), settings.decontamination)


def _filter(judge: Judge, pieces: Sequence[Piece]) -> None:
    """Judge all pieces apart, and take out duplicates in the order of the inputs."""
    tools_of(judge)  # before the processes are forked, which share it
    jobs = (PieceJob(judge, index, piece) for index, piece in enumerate(pieces))
    with (
        Workers(judge.settings.num_workers, len(pieces)) as workers,
        progress("filtering", total=len(pieces), unit="pieces") as bar,
    ):
        judged = workers.in_order(judge_piece, jobs)
        for _ in workers.in_order(settle_piece, _settle_jobs(judge, judged)):
            bar.advance(1)


def _settle_jobs(judge: Judge, judged: Iterable[Identities]) -> Iterator[SettleJob]:
    """The duplicates of each piece, given those before it; some 100 bytes a kept response."""
    seen: set[bytes] = set()
    for index, identities in enumerate(judged):
        duplicates = []
        for row, identity in enumerate(identities.tolist()):
            if identity in seen:
                duplicates.append(row)
            seen.add(identity)
        yield SettleJob(judge, index, np.array(duplicates, dtype=np.int64))


def _counted[T](items: Iterable[T], bar: Bar) -> Iterator[T]:
    for item in items:
        bar.advance(1)
        yield item
