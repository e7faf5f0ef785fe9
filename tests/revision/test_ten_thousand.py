"""Cuts, caps, masks and the mix of mixed-policy distillation, on 10,000 made-up records each.

The student's vocabulary has ids beyond its tokenizer's, which spell nothing: where they stand in a
rollout, only its own ids are right, never what the tokenizer would make of its text.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, PreTrainedTokenizerFast

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.config.teacher import ContinueTeacher
from megatron_dasd.data import preprocess_data
from megatron_dasd.data.meta import LOSS_MASK, TOKENS, Document
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.filters import runner as filters
from megatron_dasd.records import (
    FilteredResponse,
    FinishReason,
    Message,
    Prompt,
    Response,
    Rollout,
    Span,
    TokenLogprobs,
)
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.revision.continuation import Prefix, cut_rollouts
from megatron_dasd.revision.rollouts import prompt_caps
from tests.conftest import RunStage
from tests.sampled import left_out

NUM_RECORDS = 10_000
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
EXCESS = range(259, 300)
"""Ids of the student's vocabulary that its tokenizer does not know."""
OPENING = "<think>\n"
OUTPUT = "<think>\nab\n</think>\n\nc"
CHI_SQUARE = {17: 40.79, 18: 42.31, 19: 43.82}
"""By degrees of freedom, what one draw of 1,000 exceeds."""
SETTINGS = ContinueTeacher(kind="continue_teacher", rollouts="r", max_new_tokens=9, seed=11)
WriteRecords = Callable[[str, Sequence[Sequence[Any]]], Path]

_FIRST = [ord(letter) for letter in ALPHABET]
_ORDER = [*_FIRST, *(byte for byte in range(256) if byte not in _FIRST)]
_ID_OF = {byte: number for number, byte in enumerate(_ORDER, start=3)}


def byte_ids(text: str) -> list[int]:
    """As the byte tokenizer numbers them: the alphabet first, then the other bytes."""
    return [_ID_OF[byte] for byte in text.encode()]


def prompt(number: int) -> Prompt:
    return Prompt(prompt_id=f"p{number}", messages=[Message(role="user", content=f"q{number}")])


def rollout(
    number: int, num_tokens: int, finish_reason: FinishReason = "length", accent: int | None = None
) -> Rollout:
    """A rollout of so many tokens, in thinking; one in three holds ids that spell nothing.

    Args:
        accent: number of the token that begins a character of two.
    """
    luck = random.Random(number)
    token_ids, num_bytes, text = byte_ids(OPENING), [1] * len(OPENING), OPENING
    while len(token_ids) < num_tokens:
        if number % 3 == 0 and luck.random() < 0.2 and len(token_ids) != accent:
            token_ids.append(luck.choice(EXCESS))
            num_bytes.append(0)
            continue
        character = "é" if len(token_ids) == accent else luck.choice(ALPHABET)
        token_ids += byte_ids(character)
        num_bytes += [1] * len(character.encode())
        text += character
    return Rollout(
        prompt=prompt(number),
        token_ids=token_ids,
        num_bytes=num_bytes,
        text=text,
        max_tokens=num_tokens,
        finish_reason=finish_reason,
        seed=number,
    )


def cut_all(rollouts: Iterator[Rollout]) -> list[Prefix]:
    return list(cut_rollouts(rollouts, SETTINGS, SetAside()))


@pytest.mark.parametrize(
    ("num_tokens", "accent", "positions"),
    [
        (40, None, [*range(21, 40)]),  # beyond 20, and not all of them
        (41, None, [*range(21, 41)]),  # beyond 20.5
        (40, 25, [*range(21, 26), 25, *range(27, 40)]),  # 26 ends inside a character: back to 25
    ],
)
def test_cuts_are_uniform_beyond_half_and_move_back_to_characters(
    num_tokens: int, accent: int | None, positions: list[int]
) -> None:
    given = [rollout(number, num_tokens, accent=accent) for number in range(NUM_RECORDS)]
    prefixes = cut_all(iter(given))
    assert len(prefixes) == NUM_RECORDS
    for whole, prefix in zip(given, prefixes, strict=True):
        kept = len(prefix.student_prefix_ids)
        assert prefix.student_prefix_ids == whole.token_ids[:kept]
        assert prefix.student_prefix.encode() == whole.text.encode()[: sum(whole.num_bytes[:kept])]
    found = Counter(len(prefix.student_prefix_ids) for prefix in prefixes)
    wanted = Counter(positions)
    assert found.keys() == wanted.keys()
    each = NUM_RECORDS / len(positions)
    distance = sum((found[at] - each * n) ** 2 / (each * n) for at, n in wanted.items())
    assert distance < CHI_SQUARE[len(wanted) - 1]


def test_caps_are_one_and_a_half_times_the_teachers_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    luck = random.Random(5)
    sizes = [luck.randrange(1, 300) for _ in range(NUM_RECORDS)]
    given = [off_policy(number, "a" * size) for number, size in enumerate(sizes)]
    caps = prompt_caps(iter(given), tokenizer, 1.5)
    found = [caps[f"p{number}"][1] for number in range(NUM_RECORDS)]
    assert found == [3 * size // 2 for size in sizes]


def off_policy(number: int, output: str) -> FilteredResponse:
    """A response of the teacher's alone; its spans are those of ``OUTPUT``."""
    return FilteredResponse(
        prompt=prompt(number),
        temperature=1.0,
        candidate=0,
        seed=0,
        model="teacher",
        text="x",
        tokens=TokenLogprobs(token_ids=[], num_bytes=[], logprobs=[]),
        finish_reason="stop",
        output=output,
        output_spans=[Span(start=8, end=10), Span(start=21, end=22)],
        text_spans=[],
    )


def continued(prefix: Prefix) -> Response:
    """What a teacher with think tags may write after a prefix, its number in the answer."""
    return Response(
        prompt=prefix.prompt,
        temperature=1.0,
        candidate=0,
        seed=0,
        model="teacher",
        text=f"zz\n</think>\n\nit is {prefix.prompt.prompt_id}",
        tokens=TokenLogprobs(token_ids=[], num_bytes=[], logprobs=[]),
        finish_reason="stop",
        student_prefix=prefix.student_prefix,
        student_prefix_ids=prefix.student_prefix_ids,
    )


@pytest.fixture
def student_dir(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    folder = tmp_path / "student"
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=EXCESS.stop).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("masked", [left_out(False), True])
def test_examples_are_prompt_prefix_and_continuation_beside_the_set_share_of_others(
    masked: bool,
    run_stage: RunStage,
    write_records: WriteRecords,
    student_dir: Path,
    tmp_path: Path,
) -> None:
    """3,080 of 10,000 rollouts are cut off; with 20 to 7.7, 8,000 of 10,000 others go with them."""
    num_capped = 3_080
    given = [
        rollout(number, 40 + number % 2, "length" if number < num_capped else "stop")
        for number in range(NUM_RECORDS)
    ]
    prefixes = cut_all(iter(given))
    assert [prefix.prompt.prompt_id for prefix in prefixes] == [f"p{i}" for i in range(num_capped)]
    inputs = {
        "student": student_dir,
        "continuations": write_records("continuations", [[continued(p) for p in prefixes]]),
        "pool": write_records("pool", [[off_policy(i, OUTPUT) for i in range(NUM_RECORDS)]]),
    }
    run_stage(filters.run, _filter_settings(), inputs, name="filtered")
    inputs["filtered"] = tmp_path / "filtered"
    settings = PreprocessData(
        kind="preprocess_data",
        model="student",
        responses="filtered",
        mix="pool",
        mask_student_prefix=masked,
        seq_length=1024,
        num_workers=1,
        seed=3,
    )
    counts = run_stage(preprocess_data.run, settings, inputs).counts
    assert counts == {"kept": num_capped, "mix: wanted": 8_000, "mix: kept": 8_000}

    data = PackedDataset(tmp_path / "stage")
    documents = list(read_records(tmp_path / "stage", Document))
    assert len({document.prompt_id for document in documents[num_capped:]}) == 8_000
    end = [2]
    for number, document in enumerate(documents):
        asked = [1, *byte_ids(f"user\nq{(document.prompt_id or '')[1:]}"), *end]
        asked += [*byte_ids("\n"), 1, *byte_ids("assistant\n")]
        if number < num_capped:
            own = prefixes[number].student_prefix_ids
            rest = byte_ids(f"zz\n</think>\n\nit is {document.prompt_id}")
        else:
            own, rest = [], byte_ids(OUTPUT)
        values = data.document(number)
        assert values[TOKENS].tolist() == [*asked, *own, *rest, *end]
        left_out = len(asked) + (len(own) if masked else 0)
        targets = len(own) + len(asked) + len(rest) + 1 - left_out
        assert values[LOSS_MASK].tolist() == [0] * left_out + [1] * targets
        assert document.num_prefix_tokens == len(own)


def _filter_settings() -> FilterResponses:
    return FilterResponses(
        kind="filter_responses",
        responses=["continuations"],
        student="student",
        thinking=ThinkingFormat(),
        max_length=1024,
    )
