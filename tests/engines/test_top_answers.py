"""Lists of likeliest tokens in servers' answers: exact arrays, and what is refused, by name."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from megatron_dasd.engines import native
from megatron_dasd.engines.faults import Fault
from megatron_dasd.engines.top_answers import Top, Vocabulary, read_prompt_logprobs

IDS = [5, 7, 6]
SIZES = Vocabulary(student=8, teacher=10)


def entries(*pairs: tuple[int, Any]) -> dict[str, Any]:
    return {str(token): {"logprob": p, "rank": 1, "decoded_token": "ä"} for token, p in pairs}


# the text's own token is among the two likeliest at its second position, and not at its third
SECOND = entries((7, -0.5), (4, -1.25))
THIRD = entries((6, -7.0), (2, -2.0), (3, -0.5))


def body(*positions: Any) -> bytes:
    return json.dumps({"choices": [{"text": "", "prompt_logprobs": positions}]}).encode()


def read(raw: bytes) -> Top:
    return read_prompt_logprobs(raw, IDS, 2, SIZES)


def test_vllms_positions_by_rank() -> None:
    top = read(body(None, SECOND, THIRD))
    assert top.ids.tolist() == [[7, 4], [3, 2]]
    assert top.logprobs.tolist() == [[-0.5, -1.25], [-0.5, -2.0]]
    assert top.own.tolist() == [-0.5, -7.0]


def test_the_texts_own_token_may_be_impossible() -> None:
    """vLLM writes -9999 for what is not finite."""
    top = read(body(None, SECOND, entries((6, -9999.0), (2, -2.0), (3, -0.5))))
    assert top.ids.tolist() == [[7, 4], [3, 2]]


def test_the_teachers_padding_is_left_out() -> None:
    """A teacher may have a larger output layer than a student with the same tokenizer."""
    top = read(body(None, SECOND, entries((6, -7.0), (9, -1.0), (3, -1.5))))
    assert top.ids.tolist() == [[7, 4], [3, 6]]
    only = read(body(None, SECOND, entries((6, -1.0), (9, -2.0))))
    assert only.ids.tolist() == [[7, 4], [6, -1]]
    assert only.logprobs[1].tolist() == [-1.0, -np.inf]


def test_many_positions_are_decoded_by_parts() -> None:
    ids = [5] + [6] * 700
    raw = body(None, *(entries((6, -0.001 * i - 1), (2, -3.0)) for i in range(700)))
    top = read_prompt_logprobs(raw, ids, 2, SIZES)
    assert top.ids.tolist() == [[6, 2]] * 700
    np.testing.assert_allclose(top.logprobs[:, 0], -1 - 0.001 * np.arange(700), rtol=1e-6)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "no JSON": (b'{"choices": [{"prompt_logp', "malformed JSON"),
    "no object": (b"[]", "malformed answer"),
    "no choices": (b'{"choices": []}', "no choices"),
    "an error": (b'{"choices": [], "error": {"message": "out of memory"}}', "error in the answer"),
    "no list": (b'{"choices": [{"text": "a"}]}', "no log-probs"),
    "a text as the list": (b'{"choices": [{"prompt_logprobs": "x"}]}', "malformed answer"),
    "one too few": (body(None, SECOND), "log-probs of another length"),
    "one too many": (body(None, SECOND, THIRD, THIRD), "log-probs of another length"),
    "a gap": (body(None, None, THIRD), "malformed answer"),
    "without the own token": (body(None, entries((4, -1.0), (2, -2.0)), THIRD), "no log-probs"),
    "too few entries": (body(None, entries((7, -0.5)), THIRD), "no log-probs"),
    "too many entries": (
        body(None, entries((7, -2.0), (1, -2.0), (2, -2.0), (3, -2.0)), THIRD),
        "malformed answer",
    ),
    "a sentinel": (body(None, entries((7, -0.5), (4, -9999.0)), THIRD), "no log-probs"),
    "a positive value": (body(None, entries((7, 0.5), (4, -1.0)), THIRD), "no log-probs"),
    "logits": (body(None, entries((7, -0.1), (4, -0.2)), THIRD), "no log-probs"),
    "null": (body(None, entries((7, None), (4, -1.0)), THIRD), "malformed answer"),
    "NaN": (body(None, entries((7, float("nan")), (4, -1.0)), THIRD), "no log-probs"),
    "infinite": (body(None, entries((7, -0.5), (4, -float("inf"))), THIRD), "no log-probs"),
    "no such token": (body(None, entries((7, -0.5), (10, -1.0)), THIRD), "malformed answer"),
    "a negative id": (body(None, entries((7, -0.5), (-1, -1.0)), THIRD), "malformed answer"),
    "an id beyond all": (body(None, entries((7, -0.5), (2**40, -1.0)), THIRD), "malformed answer"),
    "a text as the id": (
        body(None, {"7": {"logprob": -0.5}, "a": {"logprob": -1.0}}, THIRD),
        "malformed answer",
    ),
    "nested deeply": (body(None, SECOND)[:-3] + b"," + b"[" * 99999, "malformed JSON"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_sound_is_a_fault(name: str) -> None:
    raw, kind = MALFORMED[name]
    with pytest.raises(Fault) as caught:
        read(raw)
    assert caught.value.kind == kind
    assert len(str(caught.value).splitlines()) == 1


# -- SGLang's own API -----------------------------------------------------------------------------


def native_body(
    own: list[Any] | None = None, top: list[Any] | None = None, **fields: Any
) -> dict[str, Any]:
    own = [[None, 5, None], [-0.5, 7, None], [-7.0, 6, None]] if own is None else own
    second, third = [[-0.5, 7, None], [-1.25, 4, None]], [[-0.5, 3, None], [-2.0, 2, None]]
    top = [None, second, third] if top is None else top
    meta = {"input_token_logprobs": own, "input_top_logprobs": top}
    return {"text": "", "meta_info": meta | fields}


def read_native(given: dict[str, Any], start: int = 1) -> Top:
    return native.read_top(json.dumps(given).encode(), IDS, start, 2, SIZES)


def test_sglangs_positions_begin_where_they_were_asked_for() -> None:
    top = read_native(native_body())
    assert top.ids.tolist() == [[7, 4], [3, 2]]
    assert top.logprobs.tolist() == [[-0.5, -1.25], [-0.5, -2.0]]
    assert top.own.tolist() == [-0.5, -7.0]
    whole = native_body()["meta_info"]
    last = native_body(
        [[None, 7, None], whole["input_token_logprobs"][2]], [None, whole["input_top_logprobs"][2]]
    )
    assert read_native(last, start=2).ids.tolist() == [[3, 2]]
    assert native.read_scores(json.dumps(native_body()).encode(), IDS, 1) == [-0.5, -7.0]
    assert native.scoring_body([5, 7, 6], 2, 4)["logprob_start_len"] == 1


def test_sglangs_drawn_tokens() -> None:
    drawn = native_body(output_token_logprobs=[[-0.25, 3, None], [-1.0, 2, "b"]])
    assert native.read_sampled(json.dumps(drawn).encode()) == ([-0.25, -1.0], [3, 2])


OWN = [[None, 5, None], [-0.5, 7, None], [-7.0, 6, None]]
NATIVE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "no meta_info": (lambda: {"text": "a"}, "no choices"),
    "an error": (lambda: {"error": {"message": "too long"}}, "error in the answer"),
    "other tokens": (
        lambda: native_body([[None, 5, None], [-0.5, 6, None], [-7.0, 6, None]]),
        "log-probs of another text",
    ),
    "own too few": (lambda: native_body(OWN[:2]), "log-probs of another length"),
    "top too few": (lambda: native_body(OWN, [None, [[-0.5, 7, None]]]), "log-probs of another"),
    "k too few": (
        lambda: native_body(OWN, [None, [[-0.5, 7, None]], [[-0.5, 7, None]]]),
        "no log-probs",
    ),
    "twice the same": (
        lambda: native_body(OWN, [None, *[[[-0.9, 7, None], [-0.9, 7, None]]] * 2]),
        "malformed answer",
    ),
    "no such token": (
        lambda: native_body(OWN, [None, *[[[-0.9, 7, None], [-0.9, 99, None]]] * 2]),
        "malformed answer",
    ),
    "a gap": (lambda: native_body(OWN, [None, None, None]), "malformed answer"),
}


@pytest.mark.parametrize("name", NATIVE)
def test_what_sglang_cannot_have_meant_is_a_fault(name: str) -> None:
    given, kind = NATIVE[name]
    with pytest.raises(Fault) as caught:
        read_native(given())
    assert caught.value.kind.startswith(kind)
