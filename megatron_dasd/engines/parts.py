"""Generation for a whole stage: parts of one batch each, written as they complete, resumable.

Part i holds the records of batch i, in the order of its jobs, whatever was done before a restart
and in whichever order the engine answers.  So every job ends up in the result exactly once.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import Engine as EngineSettings
from megatron_dasd.engines.base import Engine, Failure, Generation, GenerationRequest, answering
from megatron_dasd.engines.open import open_engine
from megatron_dasd.progress import Bar, progress
from megatron_dasd.records_io import Dataclass, SetAside
from megatron_dasd.text.chat import REFUSED


@dataclass(frozen=True, kw_only=True)
class GenerationJob[R]:
    """One text to generate, and how its record is made."""

    request: GenerationRequest
    record: Callable[[Generation, Engine], R]
    """Makes the stage's record; called only when there is text."""
    about: Dataclass
    """Set aside when there is no text."""
    refused: str = ""
    """Why the chat template refuses the prompt; nothing is asked then."""


@dataclass
class BarMeter:
    """Shows an engine's progress on a bar, and counts the faults."""

    bar: Bar
    started: float = field(default_factory=time.monotonic)
    num_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """By kind, since the start."""
    fresh: Counter[str] = field(default_factory=Counter)
    """By kind, since the last :meth:`take_faults`."""

    def ended(self, num_tokens: int) -> None:
        """One request has ended."""
        self.num_tokens += num_tokens
        self.bar.advance(1, note=self._note())

    def fault(self, kind: str) -> None:
        """An attempt has failed."""
        self.faults[kind] += 1
        self.fresh[kind] += 1
        self.bar.advance(0, note=self._note())

    def take_faults(self) -> dict[str, int]:
        """The faults since the last call, as counts of a part."""
        taken = {f"fault: {kind}": count for kind, count in self.fresh.items()}
        self.fresh.clear()
        return taken

    def _note(self) -> str:
        rate = self.num_tokens / max(time.monotonic() - self.started, 1e-3)
        faults = (f"{count:,} x {kind}" for kind, count in self.faults.most_common())
        return ", ".join((f"{rate:,.0f} tokens/s", *faults))


def generate_parts[R](
    jobs: Iterable[Callable[[], GenerationJob[R]]],
    record_type: type[R],
    *,
    num_jobs: int,
    folder: StageFolder,
    model: Path | None,
    model_name: str,
    settings: EngineSettings,
    aside: SetAside,
    what: str,
    open_teachers: Callable[[], Engine] | None = None,
) -> None:
    """Generate for every job and write the records, skipping parts that exist already.

    Every job ends as a record (counted ``generated``) or set aside: as ``empty``, or under
    ``server: `` and the last fault of a request that no server answered well.  Memory holds the
    batches in flight.

    Args:
        jobs: consumed as needed, in batches of ``settings.batch_size``; each is made when its
            batch is.
        num_jobs: the number of ``jobs``.
        model: Hugging Face folder, loaded when a part is missing.
        aside: records set aside while the jobs were made; written with the first part.
        what: the work, for the progress bar.
        open_teachers: opens several teachers, in place of ``model``.
    """
    size = settings.batch_size
    num_parts = max(1, -(-num_jobs // size))
    folder.expect(num_parts)
    missing = {index for index in range(num_parts) if not folder.has_part(index)}
    if missing and not num_jobs and folder.claim(0):
        none = {"generated": 0, "generated tokens": 0}
        folder.write_part(0, record_type, [], aside.counts | none, aside.rows)
    if not missing or not num_jobs:
        folder.end_of_share()
        return
    open_batches: dict[int, Sequence[GenerationJob[R]]] = {}

    def batches() -> Iterator[tuple[int, Sequence[GenerationRequest]]]:
        for index, batch in enumerate(batched(jobs, size)):
            if index in missing and folder.claim(index):
                open_batches[index] = made = [make() for make in batch]
                yield index, [job.request for job in made if not job.refused]

    engine = open_teachers() if open_teachers else open_engine(settings, model, model_name)
    done = num_jobs - sum(min(size, num_jobs - index * size) for index in missing)
    with progress(what, total=num_jobs, unit="responses", done=done) as bar:
        meter = BarMeter(bar)
        for index, answers in engine.generate(batches(), meter):
            part = aside if index == 0 else SetAside()
            records = _records(open_batches.pop(index), answers, engine, part)
            part.counts.update(meter.take_faults())
            folder.write_part(index, record_type, records, part.counts, part.rows)
    folder.end_of_share()


def _records[R](
    jobs: Sequence[GenerationJob[R]],
    answers: Sequence[Generation | Failure],
    engine: Engine,
    part: SetAside,
) -> list[R]:
    """The records of a batch; jobs without one are set aside."""
    records, num_tokens = [], 0
    given = iter(answers)
    for job in jobs:
        if job.refused:
            part.drop(REFUSED, job.about, job.refused)
            continue
        answer = next(given)
        if isinstance(answer, Failure):
            part.drop(f"server: {answer.kind}", job.about, answer.detail)
            continue
        num_tokens += len(answer.tokens.token_ids)
        if answer.text:
            records.append(job.record(answer, answering(engine, job.request.teacher)))
        else:
            part.drop("empty", job.about)
    part.counts["generated"] = len(records)
    part.counts["generated tokens"] = num_tokens
    return records
