"""What one core does in a second in the stages that ``tools/plan.py`` reckons with.

Each is the stage as a pipeline runs it, from its inputs to its parts, on one core; what it takes to
begin, for a single response, is left out.  The peer is the figure in ``config.planning``.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import corpus
from benchmarks.figures import REPETITIONS, Row, at_least
from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import Settings
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.config.planning import MEASURED_BYTES, MEASURED_RATES
from megatron_dasd.config.selection import FilterResponses, SelectDas
from megatron_dasd.config.sources import ImportResponses, MakePrompts
from megatron_dasd.data import preprocess_data
from megatron_dasd.divergence import runner as divergence
from megatron_dasd.filters import runner as filters
from megatron_dasd.manifests import part_files
from megatron_dasd.records import SelectedResponse
from megatron_dasd.records_io import read_records
from megatron_dasd.sources import prompts, responses

TEXT_BYTES = 10_000_000
NUM_PROMPTS = 20_000
SHARE = 0.5
"""Of the planned rate that a machine must reach."""
STAGES: Mapping[str, tuple[dict[str, object], Callable[..., dict[str, object]]]] = {
    "import_responses": (
        {"files": ["texts"], "format": "messages", "temperature": 1.0},
        responses.run,
    ),
    "filter_responses": (
        {"responses": ["selected"], "student": "model", "max_length": 131_072, "thinking": {}},
        filters.run,
    ),
    "select_das": ({"responses": "selected"}, divergence.run),
    "preprocess_data": (
        {"model": "model", "responses": "selected", "split": "all", "seq_length": 65_536},
        preprocess_data.run,
    ),
    "make_prompts": ({"files": ["prompts"]}, prompts.run),
}
"""Settings and function of each stage, by kind."""
CLASSES: Mapping[str, type[Settings]] = {
    "import_responses": ImportResponses,
    "filter_responses": FilterResponses,
    "select_das": SelectDas,
    "preprocess_data": PreprocessData,
    "make_prompts": MakePrompts,
}


def rows() -> Iterator[Row]:
    """Figures of the planning room."""
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        few, many = (_inputs(place / size, limit) for size, limit in SIZES.items())
        try:
            os.sched_setaffinity(0, {min(cores)})
            for kind in STAGES:
                yield from _rows(kind, few, many)
        finally:
            os.sched_setaffinity(0, cores)


SIZES = {"few": 1, "many": TEXT_BYTES}


def _inputs(place: Path, num_bytes: int) -> Path:
    """Responses, the same as lines of JSON, prompts and a tokenizer."""
    place.mkdir()
    model = corpus.model_folder(corpus.qwen3(corpus.CACHE), place / "model")
    corpus.write_selected(place / "selected", model, num_bytes)
    with (place / "texts.jsonl").open("w") as lines:
        for record in _records(place / "selected"):
            turns = [
                *({"role": m.role, "content": m.content} for m in record.prompt.messages),
                {"role": "assistant", "content": record.output},
            ]
            lines.write(json.dumps({"messages": turns}) + "\n")
    number = NUM_PROMPTS if num_bytes > 1 else 1
    with (place / "prompts.jsonl").open("w") as lines:
        for index in range(number):
            turns = [{"role": "user", "content": f"What is {index} times {index + 1}?"}]
            lines.write(json.dumps({"prompt_id": str(index), "messages": turns}) + "\n")
    return place


def _records(folder: Path) -> Iterator[SelectedResponse]:
    for part in part_files(folder):
        yield from read_records(part, SelectedResponse)


def _rows(kind: str, few: Path, many: Path) -> Iterator[Row]:
    num_tokens = sum(len(record.student_tokens.token_ids) for record in _records(many / "selected"))
    work = NUM_PROMPTS if kind == "make_prompts" else num_tokens
    begun = min(_seconds(kind, few)[0] for _ in range(2))
    taken = [_seconds(kind, many) for _ in range(REPETITIONS)]
    yield at_least(
        SHARE,
        name=f"planning: {kind} on one core",
        unit="prompts/s" if kind == "make_prompts" else "tokens/s",
        own=[work / (seconds - begun) for seconds, _ in taken],
        peer=[MEASURED_RATES[kind]],
        peer_name="the rate that plans reckon with",
        bar="at least half",
    )
    if kind in MEASURED_BYTES:
        yield _disk(kind, [size / num_tokens for _, size in taken])


def _disk(kind: str, own: Sequence[float]) -> Row:
    row = at_least(
        1 / 1.25,
        name=f"planning: disk of {kind}",
        unit="bytes a token",
        own=[MEASURED_BYTES[kind]],
        peer=list(own),
        peer_name="what the stage writes",
        bar="planned at 0.8 x at least",
    )
    return row


def _seconds(kind: str, place: Path) -> tuple[float, int]:
    """Processor seconds of a stage, and bytes of its result."""
    given, run = STAGES[kind]
    names = {"selected": "selected", "model": "model", "texts": "texts.jsonl"}
    names |= {"prompts": "prompts.jsonl"}
    inputs = {name: place / file for name, file in names.items()}
    own = {"num_workers": 1} if "num_workers" in CLASSES[kind].model_fields else {}
    settings = CLASSES[kind].model_validate({"kind": kind, "seed": 1, **given, **own})
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "stage"
        started = time.process_time()
        with StageFolder(path, kind, kind, settings.identity(), {}) as folder:
            folder.finish(figures=run(settings, inputs, folder))
        taken = time.process_time() - started
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return taken, size
