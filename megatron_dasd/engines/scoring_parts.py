"""Log-probs of given texts for a whole stage: a part for each input file, resumable."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import OnMalformed
from megatron_dasd.engines.base import Engine, Failure, ScoringRequest, answering
from megatron_dasd.engines.panel import Panel
from megatron_dasd.engines.parts import BarMeter
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.progress import progress
from megatron_dasd.records_io import Dataclass, SetAside, count_records


@dataclass(frozen=True, kw_only=True)
class ScoringJob[R]:
    """One text to score, and how its record is made."""

    request: ScoringRequest
    record: Callable[[list[float], Engine], R]
    """Makes the stage's record from the log-probs of ``request.response_ids``."""
    about: Dataclass
    """Set aside when no server answers well."""


def score_parts[R](
    files: Sequence[Path],
    jobs: Callable[[Path, SetAside], Iterable[ScoringJob[R]]],
    record_type: type[R],
    *,
    folder: StageFolder,
    engine: ServerEngine | Panel,
    on_malformed: OnMalformed,
    what: str,
) -> None:
    """Score the texts of every file that has no part yet.

    Every job ends as a record (counted ``scored``) or set aside under ``server: `` and the last
    fault.

    Args:
        jobs: makes the jobs of a file, called when there is room for them; it counts records that
            become no job in the part's tally, or sets them aside.
        what: the work, for the progress bar.
    """
    open_parts: dict[int, tuple[list[ScoringJob[R]], SetAside]] = {}
    folder.expect(len(files))
    missing = [index for index in range(len(files)) if not folder.has_part(index)]
    counts = [count_records(file) for file in files]

    def batches() -> Iterator[tuple[int, list[ScoringRequest]]]:
        for index in missing:
            if not folder.claim(index):
                continue
            aside = SetAside(on_malformed)
            made = list(jobs(files[index], aside))
            open_parts[index] = (made, aside)
            yield index, [job.request for job in made]

    total = sum(counts)
    done = total - sum(counts[index] for index in missing)
    with progress(what, total=total, unit="records", done=done) as bar:
        meter = BarMeter(bar)
        for index, answers in engine.score(batches(), meter):
            made, aside = open_parts.pop(index)
            records = []
            for job, answer in zip(made, answers, strict=True):
                if isinstance(answer, Failure):
                    aside.drop(f"server: {answer.kind}", job.about, answer.detail)
                else:
                    records.append(
                        job.record(answer.logprobs, answering(engine, job.request.teacher))
                    )
            aside.counts["scored"] = len(records)
            aside.counts.update(meter.take_faults())
            folder.write_part(index, record_type, records, aside.counts, aside.rows)
            bar.advance(counts[index] - len(made))
    folder.end_of_share()
