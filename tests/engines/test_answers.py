"""Answers of servers: what is sound is read whole, what is not is a fault under a name."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from megatron_dasd.engines.answers import Spell, keeps_bytes, read_generation, share_characters
from megatron_dasd.engines.faults import Fault
from megatron_dasd.records import NO_TOKENS


@pytest.mark.parametrize(
    ("told", "shared"),
    [
        ([b"", b"", "😀".encode()], [b"\xf0", b"\x9f", b"\x98\x80"]),
        ([b"a", b"", "日b".encode(), b""], [b"a", b"\xe6", b"\x97\xa5b", b""]),
        ([b"", b"a"], [b"", b"a"]),  # special: no character is under way
        ([b"", b"", "é".encode()], [b"", b"\xc3", b"\xa9"]),
        ([], []),
    ],
)
def test_a_character_is_shared_by_its_tokens(told: list[bytes], shared: list[bytes]) -> None:
    assert share_characters(told) == shared
    assert b"".join(shared) == b"".join(told)


# -- what servers say in their own ways ----------------------------------------------------------

SPELLED = {
    0: b"a",
    1: b"b",
    2: b"",
    3: b"\xf0\x9f",
    4: b"\x98\x80",
    5: b"<think>\n",
    6: b"\n</think>\n\n",
}


def spell(ids: Sequence[int]) -> list[bytes]:
    return [SPELLED[i] for i in ids]


def completion(**fields: Any) -> bytes:
    """An answer of ``/completions`` that reads ``ab``, its choice with other fields."""
    given: dict[str, Any] = {
        "text": "ab",
        "finish_reason": "stop",
        "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-0.1, -0.2]},
    }
    return json.dumps({"choices": [given | fields]}).encode()


def chat(message: dict[str, Any], tokens: list[Any], **fields: Any) -> bytes:
    """An answer of ``/chat/completions`` with these (text, bytes) of tokens."""
    content = [{"token": text, "logprob": -0.5, "bytes": told} for text, told in tokens]
    given = {"message": message, "finish_reason": "stop", "logprobs": {"content": content}}
    return json.dumps({"choices": [given | fields]}).encode()


def fault_of(raw: bytes, spell_by: Spell | None = None) -> Fault:
    with pytest.raises(Fault) as caught:
        read_generation(raw, spell=spell_by)
    return caught.value


@pytest.mark.parametrize(
    ("raw", "kind", "detail", "of_content"),
    [
        (
            completion(logprobs={"tokens": ["a", "b"], "token_logprobs": [-0.1, -9999.0]}),
            "no log-probs",
            "the placeholder -9999 is given in place of a log-prob",
            True,
        ),
        (
            completion(logprobs={"tokens": ["a", "b"], "token_logprobs": [None, -0.2]}),
            "no log-probs",
            "token 0 has none",
            False,
        ),
        (
            completion(logprobs={"tokens": ["a", "b"], "token_logprobs": [-0.1, float("nan")]}),
            "no log-probs",
            "the answer holds NaN, which is no number of JSON",
            True,
        ),
        (
            completion(logprobs={"tokens": ["a", "b"], "token_logprobs": [float("-inf"), -1]}),
            "no log-probs",
            "the answer holds Infinity, which is no number of JSON",
            True,
        ),
        (
            b'{"error": {"message": "no room", "code": 400}}',
            "error in the answer",
            'status 200 with the error {"message": "no room", "code": 400}',
            False,
        ),
        (
            b'{"object": "error", "message": "no room"}',
            "error in the answer",
            'status 200 with the error "no room"',
            False,
        ),
        (b'{"choices": [], "error": null}', "no choices", "", False),
        (completion(finish_reason="abort"), "abort", "ended the response with abort", False),
        (
            completion(finish_reason="content_filter"),
            "content_filter",
            "ended the response with content_filter",
            True,
        ),
        (completion(finish_reason=None), "no finish reason", "finish_reason is None", False),
        (
            completion(
                text="😀", logprobs={"tokens": ["\ufffd", "\ufffd"], "token_logprobs": [-1, -1]}
            ),
            "tokens without bytes",
            "use a server that knows return_token_ids, or api: chat",
            True,
        ),
        (
            chat({"content": "😀"}, [("\ufffd", None), ("\ufffd", None)]),
            "log-probs of another text",
            "the server writes a part of a character as U+FFFD",
            True,
        ),
    ],
)
def test_a_fault_in_an_answer_has_a_name(
    raw: bytes, kind: str, detail: str, of_content: bool
) -> None:
    fault = fault_of(raw)
    assert (fault.kind, fault.of_content) == (kind, of_content)
    assert detail in fault.detail


def test_token_ids_spell_what_the_server_writes_as_a_replacement() -> None:
    replaced = {"tokens": ["\ufffd", "\ufffd", ""], "token_logprobs": [-1, -1, -1]}
    raw = completion(text="😀", logprobs=replaced, token_ids=[3, 4, 2])
    written = read_generation(raw, spell=spell)
    assert written.text == "😀"
    assert written.tokens.num_bytes == [2, 2, 0]
    assert keeps_bytes(raw)
    assert not keeps_bytes(completion(logprobs=replaced))


def test_bytes_spell_it_too() -> None:
    raw = chat({"content": "😀"}, [("\ufffd", [0xF0, 0x9F]), ("\ufffd", [0x98, 0x80])])
    assert read_generation(raw).text == "😀"
    assert keeps_bytes(raw)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_a_thinking_part_of_its_own_field(name: str) -> None:
    message = {"content": "b", name: "a"}
    # the tokens of both with their delimiters, as ids
    ids = {"token_ids": [5, 0, 6, 1, 2]}
    told = [("?", None)] * 5
    whole = read_generation(chat(message, told, **ids), spell=spell)
    assert whole.text == "<think>\na\n</think>\n\nb"
    assert len(whole.tokens.logprobs) == 5
    # the tokens of the answer alone, without ids: text, no log-probs
    together = read_generation(chat(message, [("b", [98])]))
    assert together.text == "<think>\na\n</think>\n\nb"
    assert together.tokens == NO_TOKENS
    # no log-probs at all
    alone = json.dumps({"choices": [{"message": message, "finish_reason": "length"}]}).encode()
    assert read_generation(alone).finish_reason == "length"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": None},
    ],
)
def test_nulls_in_usage_are_no_fault(usage: object) -> None:
    answer = json.loads(completion()) | {"usage": usage}
    assert read_generation(json.dumps(answer).encode()).usage is None
