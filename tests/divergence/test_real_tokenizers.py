"""Qwen3 and gpt-oss read the same response: no token is lost, none is counted twice."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from megatron_dasd.divergence.provenance import ModelTokens, compare
from megatron_dasd.records import Span
from megatron_dasd.text.encoding import encode, token_bytes
from megatron_dasd.text.layout import end_of_turn_id
from megatron_dasd.text.thinking import NORMALISED, normalise, span_text

SNIPPETS = [
    "So x = 3.14, i.e. about \u03c0. ",
    "Größe? Ça va! Ünïcödé.",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e\u0964 ",
    "\u0645\u0631\u062d\u0628\u0627\u061f \u05e9\u05dc\u05d5\u05dd. ",
    "\u7b54\u6848\u662f\uff13\u3002\u6240\u4ee5\u5bf9\uff01",
    "\u3068\u3066\u3082\u3000\u3044\u3044\u3002",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466! ",
    "\U0001f600.\U0001f1eb\U0001f1f7 ",
    "e\u0301 a\u0308\u0323\u0302. ",
    "```python\ndef f(x):\n\treturn x ** 2  # ok. Done\n```\n",
    "if (a[i] != b) { c += d; }\r\n",
    "\\[ \\frac{1}{2}. \\] ",
    "$a. b$ costs $5. ",
    "<|im_end|>",
    "<|channel|>",
    "<think>",
    "</think",
    "\n\n\n",
    " \t \u00a0",
    "...",
    "\u2026 ",
    "\ufeff\u200b",
    "\x00\x1f",
    "1. ",
    "Dr. No. 5. ",
]
TEXT = st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=12)), max_size=8).map("".join)
CONTENT = TEXT.map(str.strip).filter(bool).filter(lambda text: "</think>" not in text)


@cache
def ids_of_bytes(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token of every single byte."""
    pieces = token_bytes(tokenizer, range(len(tokenizer)))
    found = {piece: index for index, piece in enumerate(pieces) if len(piece) == 1}
    return [found[bytes([byte])] for byte in range(256)]


def spelled(tokenizer: PreTrainedTokenizerBase, text: str, cuts: Sequence[int]) -> list[int]:
    """Tokens of a text, but single bytes between every second pair of cuts: sampled text need not
    be cut as its tokenizer would have done it."""
    data = text.encode()
    borders = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    ids: list[int] = []
    for number, (start, end) in enumerate(pairwise(borders)):
        piece = data[start:end]
        try:
            whole = number % 2 == 0
            text_piece = piece.decode() if whole else ""
        except UnicodeDecodeError:
            whole = False
        if whole:
            ids += encode(tokenizer, text_piece, parse_special=False)
        else:
            ids += [ids_of_bytes(tokenizer)[byte] for byte in piece]
    return ids


def reading(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], spans: Sequence[Span], text: str
) -> ModelTokens:
    """Tokens with log-probs of which no two sums are alike."""
    pieces = token_bytes(tokenizer, ids)
    assert b"".join(pieces) == text.encode()
    logprobs = -np.sqrt(np.arange(1, len(ids) + 1))
    return ModelTokens(text, spans, np.array([len(piece) for piece in pieces]), logprobs)


def content_tokens(model: ModelTokens) -> list[int]:
    """The tokens that belong to a sentence, by the rule, one byte at a time."""
    whitespace = [c.isspace() for c in model.text for _ in c.encode()]
    inside = [False] * len(whitespace)
    for span in model.spans:
        inside[span.start : span.end] = [True] * (span.end - span.start)
    found, start = [], 0
    for index, size in enumerate(model.num_bytes.tolist()):
        bytes_of_token = range(start, start + size)
        place = next((byte for byte in bytes_of_token if not whitespace[byte]), start)
        if size and inside[place]:
            found.append(index)
        start += size
    return found


def as_gptoss_answers(
    tokenizer: PreTrainedTokenizerBase, parts: Sequence[str], cuts: Sequence[int]
) -> ModelTokens:
    """A response in harmony's channels, whose markers are tokens without bytes."""
    ids, spans, at = [], [], 0
    for opening, part in zip(
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        parts,
        strict=True,
    ):
        marker = encode(tokenizer, opening)
        content = spelled(tokenizer, part, cuts)
        at += sum(map(len, token_bytes(tokenizer, marker)))
        spans.append(Span(start=at, end=at + len(part.encode())))
        at += len(part.encode())
        ids += [*marker, *content]
    ids += encode(tokenizer, "<|return|>")
    text = b"".join(token_bytes(tokenizer, ids)).decode()
    assert [span_text(text, span) for span in spans] == list(parts)
    return reading(tokenizer, ids, spans, text)


def as_trained_on(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str]) -> ModelTokens:
    """A response in the normalised form, as the student is trained on it and scored."""
    normalised = normalise(NORMALISED.open + parts[0] + NORMALISED.close + parts[1], NORMALISED)
    assert normalised is not None
    ids = [*encode(tokenizer, normalised.output, parse_special=False), end_of_turn_id(tokenizer)]
    return reading(tokenizer, ids, normalised.output_spans, normalised.output)


COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}


@settings(max_examples=150, **COMMON)
@given(parts=st.tuples(CONTENT, CONTENT), cuts=st.lists(st.integers(0, 60), max_size=4))
@pytest.mark.parametrize("teacher_is", ["gptoss", "qwen3"])
def test_every_token_of_the_content_is_in_one_sentence(
    teacher_is: str,
    qwen3: PreTrainedTokenizerBase,
    gptoss: PreTrainedTokenizerBase,
    parts: tuple[str, str],
    cuts: list[int],
) -> None:
    student = as_trained_on(qwen3 if teacher_is == "gptoss" else gptoss, parts)
    if teacher_is == "gptoss":
        teacher = as_gptoss_answers(gptoss, parts, cuts)
    else:
        teacher = as_trained_on(qwen3, parts)
    comparison = compare(parts, [teacher, student])
    assert "".join(comparison.texts) == "".join(parts)
    for number, model in enumerate((teacher, student)):
        content = content_tokens(model)
        assert comparison.num_tokens[number].sum() == len(content)
        assert (comparison.num_tokens[number] > 0).all()
        expected = float(model.logprobs[content].sum())
        assert comparison.totals[number].sum() == pytest.approx(expected, rel=1e-12)


def test_both_read_a_chain_of_thought_alike(
    qwen3: PreTrainedTokenizerBase, gptoss: PreTrainedTokenizerBase
) -> None:
    parts = ("".join(SNIPPETS[:5]).strip(), "\U0001f600. " + SNIPPETS[9].strip())
    teacher, student = as_gptoss_answers(gptoss, parts, []), as_trained_on(qwen3, parts)
    # the markers' words "analysis", "assistant" and "final" are text, their special tokens are not
    assert teacher.text == f"analysis{parts[0]}assistantfinal{parts[1]}"
    comparison = compare(parts, [teacher, student])
    assert comparison.texts[0] == "So x = 3.14, i.e. about \u03c0. "
    assert comparison.texts[-2:] == ["return x ** 2  # ok. Done\n", "```"]
