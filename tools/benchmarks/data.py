"""Preprocessing, packing, opening."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import batched
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import corpus, packed_index
from benchmarks.figures import Row, at_least, at_most, seconds
from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.data import preprocess_data
from megatron_dasd.data.packing import aligned, best_fit_decreasing
from megatron_dasd.json_values import require

SEQ_LENGTH, PACK_ALIGN = 65_536, 64
SHORTEST, SIGMA = 144, 0.8
CORPUS = (
    # T = 0.6: math, code, science, instructions
    (45_400, 19_200),
    (20_100, 18_500),
    (19_800, 7_400),
    (19_600, 2_700),
    # T = 1.0
    (103_300, 23_200),
    (91_300, 27_400),
    (65_200, 10_400),
    (70_000, 2_700),
)
"""Documents and their mean length in tokens, as the report counts them."""
PACKING_LIMIT_SECONDS = 10.0
MIN_FILL = 0.995
TEXT_BYTES = 300_000_000
NUM_WORKERS = 2
NUM_DOCUMENTS = 10_000_000
OPENING_LIMIT_SECONDS = 2.0


def rows() -> Iterator[Row]:
    """Figures of the data room."""
    yield from packing_rows()
    yield from opening_rows()
    yield preprocessing_row()


def corpus_lengths() -> npt.NDArray[np.int64]:
    """[documents] lengths of the made-up corpus: log-normal, clipped."""
    random = np.random.default_rng(0)
    parts = [random.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA, count) for count, mean in CORPUS]
    return np.clip(np.concatenate(parts), SHORTEST, SEQ_LENGTH).astype(np.int64)


def packing_rows() -> Iterator[Row]:
    """Time and fill, alignment counted as padding."""
    lengths = corpus_lengths()
    slots = aligned(lengths, PACK_ALIGN)
    half_a_million = np.resize(slots, 500_000)
    yield at_most(
        1.0,
        name="packing to a sequence length: half a million documents",
        unit="s",
        own=seconds(lambda: best_fit_decreasing(half_a_million, SEQ_LENGTH)),
        peer=[PACKING_LIMIT_SECONDS],
        peer_name="limit",
        bar="under 10 s",
    )
    positions = len(best_fit_decreasing(slots, SEQ_LENGTH)) * SEQ_LENGTH
    yield at_least(
        1.0,
        name="packing to a sequence length: full at 65,536 (alignment padding counted against it)",
        unit="share",
        own=[float(lengths.sum() / positions)],
        peer=[MIN_FILL],
        peer_name="limit",
        bar="at least 99.5 %",
    )


def opening_rows() -> Iterator[Row]:
    """The first batch of a large index, in a process of its own each time."""
    with tempfile.TemporaryDirectory() as place:
        small, large = Path(place) / "small", Path(place) / "large"
        packed_index.write(small, NUM_DOCUMENTS // 10)
        packed_index.write(large, NUM_DOCUMENTS)
        few, many = (
            [packed_index.measure_first_batch(folder) for _ in range(3)]
            for folder in (small, large)
        )
    name = "data set: first batch of a 10-million-document index"
    yield at_most(
        1.0,
        name=name,
        unit="s",
        own=[taken for taken, _ in many],
        peer=[OPENING_LIMIT_SECONDS],
        peer_name="limit",
        bar="under 2 s",
    )
    yield at_most(
        1.0,
        name=f"{name}: memory",
        unit="MB",
        own=[grown for _, grown in many],
        peer=[grown + 2.0 for _, grown in few],
        peer_name="the same with a tenth of the documents, and 2 MB",
        bar="memory that does not grow with the index",
    )


def preprocessing_row() -> Row:
    """The whole stage, manifest included, against the tokenizer alone on the same text.

    Both have loaded their tokenizer before the clock starts: what the stage takes for a single
    response is subtracted from what it takes for all.
    """
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = corpus.model_folder(corpus.qwen3(corpus.CACHE), place / "model")
        outputs = corpus.write_selected(place / "responses", model, TEXT_BYTES)
        corpus.write_selected(place / "one", model, 1)
        begun = min(_stage_seconds(place, "one", number)[0] for number in range(2))
        runs = [_stage_seconds(place, "responses", number) for number in range(3)]
        own = [num_tokens / (taken - begun) / 1e6 for taken, num_tokens in runs]
        peer = [_plain_tokens_per_second(model, outputs) / 1e6]
    return at_least(
        7.0,
        name="preprocessing on 2 cores, Qwen3 tokenizer, 300 MB of long chains of thought, "
        "template, masks, packing and companions included, against tokenizers' own "
        "encode_batch_fast of the same text on the same cores",
        unit="M tokens/s",
        own=own,
        peer=peer,
        peer_name="encode_batch_fast",
        bar="at least 7 x",
    )


def _stage_seconds(place: Path, responses: str, number: int) -> tuple[float, int]:
    """Wall seconds of the stage, and its tokens."""
    settings = PreprocessData(
        kind="preprocess_data",
        model="model",
        responses=responses,
        system_prompt="You are a helpful assistant.",
        seq_length=SEQ_LENGTH,
        num_workers=NUM_WORKERS,
    )
    inputs = {"model": place / "model", responses: place / responses}
    path = place / f"stage {responses} {number}"
    os.sync()  # what was written before is not to be written out at this run's expense
    started = time.perf_counter()
    with StageFolder(path, "data", settings.kind, settings.identity(), {}) as folder:
        figures = preprocess_data.run(settings, inputs, folder)
        folder.finish(figures=figures)
    taken = time.perf_counter() - started
    shutil.rmtree(path)
    return taken, require(figures, "num_tokens", int)


def _plain_tokens_per_second(model: Path, texts: list[str]) -> float:
    """Of ``encode_batch_fast`` on all cores, in a process in which it may use them."""
    program = (
        "import json, sys, time; from tokenizers import Tokenizer\n"
        "tokenizer = Tokenizer.from_file(sys.argv[1]); tokenizer.encode_batch_fast(['a'] * 8)\n"
        "batches = json.load(open(sys.argv[2])); count = taken = 0\n"
        "for batch in batches:\n"
        "    start = time.perf_counter()\n"
        "    found = tokenizer.encode_batch_fast(batch, add_special_tokens=False)\n"
        "    taken += time.perf_counter() - start\n"
        "    count += sum(len(encoding) for encoding in found)\n"
        "print(count / taken)"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([list(batch) for batch in batched(texts, 256)], file)
        file.flush()
        command = [sys.executable, "-c", program, str(model / "tokenizer.json"), file.name]
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "true"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)
