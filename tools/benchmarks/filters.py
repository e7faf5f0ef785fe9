"""The filters on one response of 64K tokens, and on texts made to be slow: every rule, the exact
length in the Qwen3 tokenizer's tokens included."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import corpus
from benchmarks.chains import chain_of_thought
from benchmarks.figures import REPETITIONS, Row, at_least, at_most, seconds
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.filters.case import Tools, make_case
from megatron_dasd.filters.judging import judge
from megatron_dasd.filters.token_counter import StudentTokenCounter
from megatron_dasd.records import Message, Prompt, Response, TokenLogprobs
from megatron_dasd.text.encoding import load_tokenizer
from megatron_dasd.text.thinking import NORMALISED

LIMIT_SECONDS = 0.050
NUM_TOKENS = 65_536
CHARACTERS_PER_TOKEN = 2.7
"""Of these chains, in the Qwen3 tokenizer's tokens."""
MEGABYTE = 1_000_000


def rows() -> Iterator[Row]:
    """Figures of the filters room."""
    with tempfile.TemporaryDirectory() as place:
        model = corpus.model_folder(corpus.qwen3(corpus.CACHE), Path(place) / "model")
        counter = StudentTokenCounter(load_tokenizer(model), "You are a helpful assistant.")
    chance = random.Random(0)
    long = chain_of_thought(chance, int(CHARACTERS_PER_TOKEN * NUM_TOKENS))
    # all rules: at the bound of a context of 64K tokens the length would end some runs early
    judged, num_tokens = _seconds_of("a response of 64K tokens", long, counter, 2 * NUM_TOKENS)
    yield at_least(
        1.5,
        name="all rules over a response of 64K tokens",
        unit="tokens/s",
        own=[num_tokens / taken for taken in judged],
        peer=corpus.tokenizer_rates([long], REPETITIONS),
        peer_name="tokenizers' encode_batch_fast of the same text on one core",
    )
    hostile: dict[str, Callable[[], str]] = {
        "a megabyte of one character": lambda: "a" * MEGABYTE,
        "a megabyte of nested brackets": lambda: "\\[(" * (MEGABYTE // 3),
        "a megabyte of near-repeats": lambda: "".join(
            f"We check the case {i} again. " for i in range(MEGABYTE // 30)
        ),
    }
    for name, text in hostile.items():
        yield _row(f"all rules over {name}", text(), counter)


def _row(name: str, thinking: str, counter: StudentTokenCounter) -> Row:
    return at_most(
        1.0,
        name=name,
        unit="s",
        own=_seconds_of(name, thinking, counter, NUM_TOKENS)[0],
        peer=[LIMIT_SECONDS],
        peer_name="limit",
        bar="under 50 ms",
    )


def _seconds_of(
    name: str, thinking: str, counter: StudentTokenCounter, max_length: int
) -> tuple[list[float], int]:
    """Processor seconds that judging a response takes, and the tokens of what training sees."""
    text = NORMALISED.open + thinking + NORMALISED.close + "42"
    settings = FilterResponses(
        kind="filter_responses", responses=["r"], student="s", max_length=max_length
    )
    response = Response(
        prompt=Prompt(prompt_id="p", messages=[Message(role="user", content="q")]),
        temperature=1.0,
        candidate=0,
        seed=0,
        model="teacher",
        text=text,
        tokens=TokenLogprobs(token_ids=[0], num_bytes=[len(text.encode())], logprobs=[0.0]),
        finish_reason="stop",
    )
    tools = Tools(counter)
    normalised = make_case(response, settings, tools).normalised
    assert normalised is not None
    num_tokens = counter.count(response, normalised.output, normalised.output_spans)
    print(f"{name}: {num_tokens:,} tokens")
    taken = seconds(lambda: judge(make_case(response, settings, tools)), 7, time.process_time)
    return taken, num_tokens
