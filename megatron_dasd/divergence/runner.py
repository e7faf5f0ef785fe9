"""Stage select_das: keeps those of each prompt's candidates that teach most.

The inputs are read twice: once to compare the models on every candidate, which leaves a row of
numbers in memory, and once to write what was selected.  Candidates of one prompt may therefore lie
anywhere in the inputs.  A part of the result holds what was selected from one file, in order.

Both passes divide the files among processes.  The choice between them is made in this process, from
the rows in the order of the inputs, so the result is the same for any number of processes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from megatron_dasd.arrays import Bools
from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence import figures
from megatron_dasd.divergence.candidates import ROW, Domains, Rows, choose
from megatron_dasd.divergence.comparing import FileJob, SelectJob, survey_file, write_selected
from megatron_dasd.divergence.distilled import distilled_files
from megatron_dasd.divergence.report import write_report
from megatron_dasd.progress import progress
from megatron_dasd.records_io import count_records, record_files
from megatron_dasd.workers import Workers

_SCRATCH = ".surveys.tmp"
"""Deleted when the stage finishes, as everything that ends in ``.tmp``."""


def run(settings: SelectDas, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, object]:
    """Select; the figures describe all candidates and the selected ones."""
    selection = select(settings, inputs, folder)
    has_distilled = settings.distilled is not None
    found = figures.collect(selection, has_distilled, folder.path)
    write_report(folder, settings, found)
    return dict(found)


def select(
    settings: SelectDas, inputs: Mapping[str, Path], folder: StageFolder
) -> figures.Selection:
    """Compare the candidates, choose among them, and write the parts that are missing."""
    files = record_files(inputs[settings.responses])
    distilled = distilled_files(inputs[settings.distilled] if settings.distilled else None, files)
    scratch = folder.path / _SCRATCH
    scratch.mkdir(exist_ok=True)
    jobs = [
        FileJob(index, file, second, settings, scratch)
        for index, (file, second) in enumerate(zip(files, distilled, strict=True))
    ]
    with Workers(settings.num_workers, len(jobs)) as workers:
        candidates, domains, gaps = _compare(jobs, workers)
        kept = choose(candidates, settings)
        chosen = _select_jobs(jobs, candidates, kept, folder.path)
        with progress("selecting", total=len(files), unit="files") as bar:
            for _ in workers.in_order(write_selected, chosen):
                bar.advance(1)
    return figures.Selection(candidates, kept, domains, gaps)


def _compare(
    jobs: Sequence[FileJob], workers: Workers
) -> tuple[Rows, Domains, figures.GapHistograms]:
    """The rows of all candidates in the order of the files, and what their numbers refer to."""
    rows = np.empty(sum(count_records(job.file) for job in jobs), dtype=ROW)
    domains, gaps, num_rows = Domains(), figures.GapHistograms(), 0
    with progress("comparing", total=len(jobs), unit="files") as bar:
        for found in workers.in_order(survey_file, jobs):
            here = rows[num_rows : num_rows + found.rows.size]
            here[:] = found.rows
            numbers = np.array([domains.number(name) for name in found.domains], dtype=np.int32)
            if here.size:
                here["domain"] = numbers[here["domain"]]
            for temperature, counts in found.gaps.items():
                gaps.counts[temperature] += np.array(counts)
            num_rows += found.rows.size
            bar.advance(1)
    return rows[:num_rows], domains, gaps


def _select_jobs(
    jobs: Sequence[FileJob], candidates: Rows, kept: Bools, stage: Path
) -> Iterator[SelectJob]:
    ends = np.searchsorted(candidates["file"], np.arange(len(jobs)), side="right")
    first = 0
    for job, end in zip(jobs, ends.tolist(), strict=True):
        numbers = candidates["record"][first:end][kept[first:end]]
        yield SelectJob(job, numbers, end - first, stage)
        first = end
