"""Import, filter and selection on two processes, against two runs of one process side by side.

The inputs are made by procedure.  What the two processes of one run lose to each other, and to what
is decided over all parts, is the difference; what memory and disk allow two cores is not.
"""

import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks import corpus
from benchmarks.divergence import NUM_CANDIDATES, scored
from benchmarks.figures import REPETITIONS, Row, at_least
from megatron_dasd.artifacts import StageFolder, write_part
from megatron_dasd.config.base import Settings
from megatron_dasd.config.selection import FilterResponses, SelectDas
from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.divergence import runner as select_runner
from megatron_dasd.filters import runner as filter_runner
from megatron_dasd.records import Response, ScoredResponse
from megatron_dasd.sources import responses as import_runner

NUM_TOKENS = 10_000_000
"""The teacher's, of all responses.  A run takes a minute with 10 million, 20 with 200 million."""
MEAN_TOKENS = 19_200
PART_RECORDS = 8
_FORK = multiprocessing.get_context("fork")


def rows() -> Iterator[Row]:
    """Figures of the data path on two cores."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        corpus.model_folder(corpus.qwen3(corpus.CACHE), place / "model")
        _write_inputs(place)
        for settings in (
            ImportResponses(
                kind="import_responses",
                files=["rows"],
                prompt_field="q",
                response_field="a",
                temperature=0.6,
            ),
            FilterResponses(
                kind="filter_responses", responses=["given"], student="model", max_length=131_072
            ),
            SelectDas(kind="select_das", responses="scored", seed=1),
        ):
            own, peer = [], []
            for _ in range(REPETITIONS):
                own.append(1 / _seconds(place, settings, ["whole"], 2))
                peer.append(1 / _seconds(place, settings, ["first", "second"], 1))
            yield at_least(
                0.95,
                name=f"{settings.kind} on two processes, {NUM_TOKENS:,} tokens",
                unit="runs/s",
                own=own,
                peer=peer,
                peer_name="two independent runs of one process on half of it each, side by side",
            )


def _write_inputs(place: Path) -> None:
    """Write rows, responses and scored responses, whole and in two halves."""
    chance = random.Random(0)
    plain = [field.name for field in fields(Response)]
    num_parts = NUM_TOKENS // MEAN_TOKENS // PART_RECORDS
    for part in range(num_parts):
        first = part * PART_RECORDS
        numbers = range(first, first + PART_RECORDS)
        # a prompt's candidates lie in one part
        made = [scored(chance, number, MEAN_TOKENS) for number in numbers]
        given = [Response(**{name: getattr(one, name) for name in plain}) for one in made]
        half = "first" if part < num_parts // 2 else "second"
        for which in ("whole", half):
            for kind in ("rows", "given", "scored"):
                (place / which / kind).mkdir(parents=True, exist_ok=True)
            write_part(place / which / "given", part, Response, given)
            write_part(place / which / "scored", part, ScoredResponse, made)
            with (place / which / "rows" / "train.jsonl").open("a") as lines:
                for number, one in zip(numbers, given, strict=True):
                    row = {"q": f"What is {number // NUM_CANDIDATES}?", "a": one.text}
                    lines.write(json.dumps(row) + "\n")


def _seconds(place: Path, settings: Settings, which: Sequence[str], num_workers: int) -> float:
    """Wall seconds until runs of a stage, each on some of the inputs, have all ended."""
    asked = settings.model_copy(update={"num_workers": num_workers})
    os.sync()  # what was written before is not to be written out at this run's expense
    processes = [_FORK.Process(target=_run, args=(place, asked, half)) for half in which]
    started = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    taken = time.perf_counter() - started
    assert all(process.exitcode == 0 for process in processes)
    return taken


def _run(place: Path, settings: Settings, which: str) -> None:
    inputs: Mapping[str, Path] = {
        "model": place / "model",
        **{kind: place / which / kind for kind in ("rows", "given", "scored")},
    }
    path = place / f"stage {which}"
    with StageFolder(path, "stage", settings.kind, settings.identity(), {}) as folder:
        if isinstance(settings, ImportResponses):
            import_runner.run(settings, inputs, folder)
        elif isinstance(settings, FilterResponses):
            filter_runner.run(settings, inputs, folder)
        elif isinstance(settings, SelectDas):  # without its report, whose drawing takes a second
            select_runner.select(settings, inputs, folder)
        folder.finish()
    shutil.rmtree(path)
