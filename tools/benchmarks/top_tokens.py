"""The likeliest tokens from servers: processor time beside the decoding, and memory."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.figures import REPETITIONS, Row, at_most
from benchmarks.instant_server import text_ids, top_answer
from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import Server
from megatron_dasd.config.teacher import ScoreTopk
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.teacher import top_tokens

TOP_K = 64
VOCABULARY = 151_936
TEXT_TOKENS, NUM_TEXTS = 2048, 24
MEMORY_TEXT_TOKENS = 32
MEMORY_TEXTS = (4_000, 20_000)


class _Entry(msgspec.Struct):
    logprob: float


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[int, _Entry] | None]


class _Answer(msgspec.Struct):
    choices: list[_Choice]


def rows() -> Iterator[Row]:
    """Figures of the likeliest tokens."""
    own, peer = [], []
    with tempfile.TemporaryDirectory() as folder, stub() as url:
        body = top_answer(TEXT_TOKENS, TOP_K)
        decoder = msgspec.json.Decoder(_Answer)
        data = packed(Path(folder) / "data", TEXT_TOKENS, NUM_TEXTS)
        for number in range(REPETITIONS + 1):
            own.append(score(data, url, f"top{number}"))
            started = time.process_time()
            for _ in range(NUM_TEXTS):
                decoder.decode(body)
            peer.append(time.process_time() - started)
    yield at_most(
        2.5,
        name=f"score_topk against a stub that answers at once, k = {TOP_K}, {NUM_TEXTS} texts of "
        f"{TEXT_TOKENS} tokens: the whole stage",
        unit="s of processor time",
        own=own[1:],
        peer=peer[1:],
        peer_name="msgspec's typed decoding of the same bodies",
    )
    few, many = (peak_megabytes(num_texts) for num_texts in MEMORY_TEXTS)
    yield at_most(
        1.0,
        name=f"score_topk: memory of {MEMORY_TEXTS[1]:,} documents",
        unit="MB",
        own=[many],
        peer=[few + 8.0],
        peer_name=f"{MEMORY_TEXTS[0]:,} documents, and 8 MB",
        bar="memory does not grow with the run",
    )


def score(data: Path, url: str, name: str) -> float:
    """Processor seconds of the stage on packed data."""
    settings = ScoreTopk(
        kind="score_topk",
        data="data",
        model="model",
        teacher="model",
        top_k=TOP_K,
        server=Server(urls=[url], probe=False, concurrency=8),
        memory_mib=256,
    )
    inputs = {"data": data, "model": data.parent / "model"}
    path = data.parent / name
    with StageFolder(path, name, settings.kind, settings.identity(), {}) as stage:
        started = time.process_time()
        figures = top_tokens.run(settings, inputs, stage)
        seconds = time.process_time() - started
    assert "unscored" not in figures, figures
    return seconds


def packed(folder: Path, num_tokens: int, num_texts: int) -> Path:
    """Packed data of equal texts, and beside it the model's tokenizer."""
    byte_tokenizer("abcdefghijklmnopqrstuvwxyz").save_pretrained(folder.parent / "model")
    config = folder.parent / "model" / "config.json"
    config.write_text(msgspec.json.encode({"vocab_size": VOCABULARY}).decode())
    folder.mkdir()
    data_format = DataFormat(num_tokens, 1, VOCABULARY, eod_id=2)
    writer = ShardWriter(folder, data_format)
    tokens = np.array(text_ids(num_tokens))
    mask = np.array([0, *[1] * (num_tokens - 1)])
    for number in range(num_texts):
        writer.add(str(number), {"tokens": tokens, "loss_mask": mask})
    writer.close()
    write_data(folder, [folder], data_format)
    return folder


def peak_megabytes(num_texts: int) -> float:
    """Most memory of a process that scores so many texts."""
    command = [sys.executable, "-m", "benchmarks.top_tokens", str(num_texts)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.splitlines()[-1])


@contextmanager
def stub() -> Iterator[str]:
    """The instant server, on the last core; gives its URL."""
    program = str(Path(__file__).with_name("instant_server.py"))
    command = [sys.executable, program, str(max(os.sched_getaffinity(0))), str(TOP_K)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, stub() as address:
        score(packed(Path(place) / "data", MEMORY_TEXT_TOKENS, int(sys.argv[1])), address, "top")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
