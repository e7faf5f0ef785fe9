"""Generation for a whole stage: part after part, each one batch, each resumable."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import Engine as EngineSettings
from megatron_dasd.engines.base import Generation, GenerationRequest
from megatron_dasd.engines.transformers_engine import TransformersEngine
from megatron_dasd.progress import progress
from megatron_dasd.records_io import SetAside


@dataclass(frozen=True, kw_only=True)
class Job[R]:
    """One text to be generated and what becomes of it."""

    request: GenerationRequest
    record: Callable[[Generation], R]
    """Makes the stage's record; asked only when there is text."""
    about: Any
    """The dataclass that is set aside when the model wrote nothing."""


def generate_parts[R](
    jobs: Sequence[Job[R]],
    record_type: type[R],
    *,
    folder: StageFolder,
    model: Path,
    model_name: str,
    settings: EngineSettings,
    aside: SetAside,
    what: str,
) -> None:
    """Generate for every job and write the records, skipping parts that are there already.

    Every job ends as a record (counted ``generated``) or set aside as ``empty``.  Part i holds the
    jobs of batch i, whatever was done before a restart.

    Args:
        model: Hugging Face folder, loaded when a part is missing.
        aside: what was set aside while the jobs were made; goes with the first part.
        what: the work, for the progress bar.
    """
    batches = list(batched(jobs, settings.batch_size)) or [()]
    missing = [index for index in range(len(batches)) if not folder.has_part(index)]
    done = sum(len(batch) for i, batch in enumerate(batches) if folder.has_part(i))
    if not missing:
        return
    engine = TransformersEngine(model, settings, model_name) if jobs else None
    with progress(what, total=len(jobs), unit="responses", done=done) as bar:
        for index in missing:
            batch = batches[index]
            part = aside if index == 0 else SetAside()
            started = time.monotonic()
            generations = engine.generate([job.request for job in batch]) if engine else []
            seconds = time.monotonic() - started
            num_tokens = sum(len(generation.tokens.token_ids) for generation in generations)
            records = []
            for job, generation in zip(batch, generations, strict=True):
                if generation.text:
                    records.append(job.record(generation))
                else:
                    part.drop("empty", job.about)
            part.counts["generated"] = len(records)
            part.counts["generated tokens"] = num_tokens
            folder.write_part(index, record_type, records, part.counts, part.rows)
            bar.advance(len(batch), note=f"{num_tokens / seconds:.0f} tokens/s")
