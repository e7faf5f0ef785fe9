"""Alignment, classes and selection: the stage select_das from its inputs to its parts.

What is left out is the drawing of its report, a second however much there is to select from.
Tokens are those whose log-probs are aligned: the teacher's and the student's, each in its own
tokenizer's.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import corpus
from benchmarks.chains import chain_of_thought
from benchmarks.figures import REPETITIONS, Row, at_least
from megatron_dasd.artifacts import StageFolder, write_part
from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence import runner
from megatron_dasd.records import (
    Message,
    Prompt,
    ScoredResponse,
    TokenLogprobs,
)
from megatron_dasd.records_io import read_records
from megatron_dasd.text.thinking import NORMALISED, normalise

NUM_PROMPTS, NUM_CANDIDATES, NUM_FILES = 16, 4, 2
MEAN_TOKENS = 19_200
"""Of the report's responses to mathematical prompts at temperature 0.6."""


def rows() -> Iterator[Row]:
    """Figures of the divergence room."""
    with tempfile.TemporaryDirectory() as scratch:
        responses = Path(scratch) / "scored"
        num_tokens = write_scored(responses)
        settings = SelectDas(kind="select_das", responses="scored", seed=1, num_workers=1)
        texts = [response.text for response in read_records(responses, ScoredResponse)]
        peer = corpus.tokenizer_rates(texts, REPETITIONS)
        rates = []
        for number in range(1 + REPETITIONS):
            started = time.process_time()
            path = Path(scratch) / f"select{number}"
            with StageFolder(path, "select", settings.kind, settings.identity(), {}) as folder:
                runner.select(settings, {"scored": responses}, folder)
            rates.append(num_tokens / (time.process_time() - started))
    yield at_least(
        3.0,
        name="alignment, classes and selection, log-probs given",
        unit="tokens/s a core",
        own=rates[1:],  # the first run also imports
        peer=peer,
        peer_name="tokenizers' encode_batch_fast of the same texts on one core",
    )


def write_scored(folder: Path) -> int:
    """Write scored responses of the report's lengths; returns both models' tokens in them."""
    folder.mkdir()
    lengths = np.random.default_rng(0).lognormal(0.0, 0.8, NUM_PROMPTS * NUM_CANDIDATES)
    lengths = np.clip(lengths / lengths.mean() * MEAN_TOKENS, 144, 65_536).astype(int)
    chance = random.Random(0)
    responses = [scored(chance, number, size) for number, size in enumerate(lengths.tolist())]
    for part in range(NUM_FILES):
        write_part(folder, part, ScoredResponse, responses[part::NUM_FILES])
    return sum(
        len(tokens.num_bytes)
        for response in responses
        for tokens in (response.tokens, response.student_tokens)
    )


def scored(chance: random.Random, number: int, num_tokens: int) -> ScoredResponse:
    """A response of about that many teacher tokens."""
    thinking = chain_of_thought(chance, int(4.2 * num_tokens))
    normalised = normalise(NORMALISED.open + thinking + NORMALISED.close + "42", NORMALISED)
    assert normalised is not None
    prompt, candidate = divmod(number, NUM_CANDIDATES)
    question = [Message(role="user", content="What is six times seven?")]
    return ScoredResponse(
        prompt=Prompt(prompt_id=f"p{prompt}", messages=question, domain="math"),
        temperature=0.6,
        candidate=candidate,
        seed=0,
        model="teacher",
        text=normalised.output,
        tokens=made_up_tokens(normalised.output, number),
        finish_reason="stop",
        output=normalised.output,
        output_spans=normalised.output_spans,
        text_spans=normalised.output_spans,
        student_tokens=made_up_tokens(normalised.output, -1 - number),
        student_model="student",
    )


def made_up_tokens(text: str, seed: int) -> TokenLogprobs:
    """A text cut into tokens of 1 to 7 bytes, as likely as a good model finds them."""
    generator = np.random.default_rng([seed & 0xFFFF, seed < 0])
    size = len(text.encode())
    ends = np.minimum(np.cumsum(generator.integers(1, 8, size)), size)
    ends = ends[: np.searchsorted(ends, size) + 1]
    num_bytes = np.diff(np.append(0, ends))
    return TokenLogprobs(
        token_ids=generator.integers(0, 150_000, num_bytes.size).tolist(),
        num_bytes=num_bytes.tolist(),
        logprobs=(-generator.exponential(0.3, num_bytes.size)).tolist(),
    )
