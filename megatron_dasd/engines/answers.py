"""Answers of OpenAI-compatible servers to texts with log-probs; what is not sound is a fault.

The text is spelled from the token ids with the model's own tokenizer where there are ids, as the
engine in this process does, so that every token's bytes are known; otherwise from the bytes or
texts of the tokens.  Either way it must be the text that the server gives.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from megatron_dasd.engines.base import Generation
from megatron_dasd.engines.decoding import cut_num_bytes, decode_pieces, first_stop
from megatron_dasd.engines.faults import Fault
from megatron_dasd.engines.network import decode
from megatron_dasd.records import NO_TOKENS, TokenLogprobs, Usage
from megatron_dasd.text.harmony import without_markers
from megatron_dasd.text.thinking import NORMALISED

Spell = Callable[[Sequence[int]], list[bytes]]
"""The bytes of text that each token id adds."""

Sampled = tuple[list[float], tuple[list[int], list[int]] | None]
"""Log-probs of generated tokens; (prompt ids, generated ids) where the answer has both."""

UNKNOWN_ID = -1
_REPLACEMENT = "\ufffd"
_ABOVE_ZERO = 1e-3
"""Rounding aside, no logarithm of a probability is larger."""
_SENTINEL = -9999.0
"""What servers write in place of a log-prob that is not finite; no token is drawn with a smaller
one."""
_OWN_REASONS = ("abort", "content_filter")
"""Finish reasons of responses that a server broke off: faults under their own names."""
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A number of tokens, or a token's id."""
_Byte = Annotated[int, Meta(ge=0, le=255)]


class _Usage(Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class _Token(Struct):
    token: str
    logprob: float
    bytes: list[_Byte] | None = None


class _Logprobs(Struct):
    """Of both APIs: completions give lists, chat gives ``content``."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    content: list[_Token] | None = None


class _Message(Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _PromptLogprob(Struct):
    logprob: float


class _Choice(Struct):
    text: str | None = None
    message: _Message | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[_Count] | None = None
    prompt_token_ids: list[_Count] | None = None
    prompt_logprobs: list[dict[str, _PromptLogprob] | None] | None = None


class _Answer(Struct):
    choices: list[_Choice] = []
    error: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    usage: _Usage | None = None
    prompt_token_ids: list[_Count] | None = None
    prompt_logprobs: list[dict[str, _PromptLogprob] | None] | None = None


_decoder = msgspec.json.Decoder(_Answer)


def read_generation(raw: bytes, stop: Sequence[str] = (), spell: Spell | None = None) -> Generation:
    """What a server wrote, from the bytes of its answer.

    Args:
        stop: the texts that end a response; the tokens that spell them are left out.
        spell: of the model's tokenizer; None when there is none here.

    Raises:
        Fault: the answer is not whole and sound; its kind says in what.
    """
    answer = _decode(raw)
    choice = answer.choices[0]
    if choice.finish_reason in _OWN_REASONS:
        raise Fault(
            choice.finish_reason,
            f"the server ended the response with {choice.finish_reason}",
            of_content=choice.finish_reason == "content_filter",
        )
    if choice.finish_reason not in ("stop", "length", "tool_calls"):
        raise Fault("no finish reason", f"finish_reason is {choice.finish_reason}")
    reasoning = choice.message and (choice.message.reasoning or choice.message.reasoning_content)
    if reasoning and choice.token_ids is None and not _spells_both(choice):
        return _put_together(answer, choice, reasoning)
    ids, logprobs, pieces = _tokens(choice)
    if choice.token_ids is not None and spell is not None:
        pieces = spell(choice.token_ids)
    text, num_bytes = decode_pieces(_require_pieces(pieces))
    if choice.token_ids is None or spell is None:
        text, num_bytes = _without_end_of_turn(text, num_bytes, "".join(_said(choice)))
    end = first_stop(text, stop)
    if end is not None:
        text = text[:end]
        num_bytes = cut_num_bytes(num_bytes, len(text.encode()))
    _require_same(text, choice)
    if "\0" in text:
        raise Fault("malformed answer", "the text holds a NUL character", of_content=True)
    kept = len(num_bytes)
    return Generation(
        text=text,
        tokens=TokenLogprobs(token_ids=ids[:kept], num_bytes=num_bytes, logprobs=logprobs[:kept]),
        finish_reason="length" if choice.finish_reason == "length" else "stop",
        usage=_usage(answer, choice),
    )


def keeps_bytes(raw: bytes) -> bool:
    """Whether an answer tells every token's bytes, by its id or themselves.

    Where it does not, it writes a part of a character as U+FFFD: a character that is spread over
    tokens, as an emoji, is then lost.

    Raises:
        Fault: the answer is not sound.
    """
    choice = _decode(raw).choices[0]
    told = choice.logprobs
    if choice.token_ids is not None or told is None:
        return True
    return told.content is not None and all(token.bytes is not None for token in told.content)


def read_sampled(raw: bytes) -> Sampled:
    """Read what a probe compares with a rescoring.

    Raises:
        Fault: the answer is not sound.
    """
    answer = _decode(raw)
    choice = answer.choices[0]
    _, logprobs, _ = _tokens(choice)
    prompt_ids = choice.prompt_token_ids or answer.prompt_token_ids
    told = bool(prompt_ids and choice.token_ids)
    return logprobs, (prompt_ids or [], choice.token_ids or []) if told else None


def read_scores(raw: bytes, ids: Sequence[int], num_prompt: int) -> list[float]:
    """Log-probs of ``ids[num_prompt:]``, from an answer about the text ``ids``.

    Reads ``prompt_logprobs``, or what ``echo`` puts before the generated tokens.

    Raises:
        Fault: they are not there, or not one for every token.
    """
    answer = _decode(raw)
    choice = answer.choices[0]
    given = choice.prompt_logprobs or answer.prompt_logprobs
    found: list[float | None] = []
    if given is not None:
        for token, entry in zip(ids, given, strict=False):
            at = (entry or {}).get(str(token))
            found.append(at.logprob if at else None)
        if len(given) != len(ids):
            raise Fault("log-probs of another length", f"{len(given)} for {len(ids)} tokens")
    elif choice.logprobs and choice.logprobs.token_logprobs:
        found = choice.logprobs.token_logprobs[: len(ids)]
        if len(found) != len(ids):
            raise Fault("log-probs of another length", f"{len(found)} for {len(ids)} tokens")
    else:
        raise Fault("no log-probs", "neither prompt_logprobs nor echoed logprobs in the answer")
    return _sound(found[num_prompt:])


def _usage(answer: _Answer, choice: _Choice) -> Usage | None:
    usage = answer.usage
    if usage is None:
        return None
    counted = usage.completion_tokens
    if usage.prompt_tokens is None or counted is None:
        return None
    if choice.token_ids is not None and counted != len(choice.token_ids):
        raise Fault(
            "log-probs of another length", f"{len(choice.token_ids)} tokens, {counted} counted"
        )
    return Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=counted)


def _decode(raw: bytes) -> _Answer:
    answer = decode(_decoder, raw)
    if not answer.choices:
        said = bytes(answer.error) or bytes(answer.message)
        if said and said != b"null":
            text = said.decode(errors="replace")
            raise Fault("error in the answer", f"status 200 with the error {text}")
        raise Fault("no choices", "the answer's list of choices is empty")
    return answer


def _tokens(choice: _Choice) -> tuple[list[int], list[float], list[bytes] | None]:
    """(ids, log-probs, bytes if known without the tokenizer)."""
    logprobs = choice.logprobs
    pieces: list[bytes] | None
    if logprobs is not None and logprobs.content is not None:
        values: list[float | None] = [token.logprob for token in logprobs.content]
        pieces = [
            bytes(token.bytes) if token.bytes is not None else token.token.encode()
            for token in logprobs.content
        ]
        pieces = share_characters(pieces)
    elif logprobs is not None and logprobs.token_logprobs is not None:
        values = logprobs.token_logprobs
        texts = logprobs.tokens
        known = texts is not None and not any(_REPLACEMENT in text for text in texts)
        pieces = [text.encode() for text in texts] if texts is not None and known else None
    else:
        raise Fault("no log-probs", "the choice has none")
    ids = choice.token_ids if choice.token_ids is not None else [UNKNOWN_ID] * len(values)
    if len(ids) != len(values):
        raise Fault("log-probs of another length", f"{len(values)} for {len(ids)} tokens")
    if pieces is not None and len(pieces) != len(values):
        raise Fault("log-probs of another length", f"{len(values)} for {len(pieces)} tokens")
    return ids, _sound(values), pieces


def share_characters(pieces: Sequence[bytes]) -> list[bytes]:
    """Give the tokens that begin a character a byte of it each.

    vLLM tells a character that is spread over tokens as the last one's, and no bytes for those
    before.  A token without bytes would belong to no sentence, and its log-prob would be lost.
    """
    shared = list(pieces)
    empty = 0
    for at, piece in enumerate(pieces):
        if not piece:
            empty += 1
            continue
        width = 1 if piece[0] < 0xC0 else 2 + (piece[0] >= 0xE0) + (piece[0] >= 0xF0)
        for before in range(min(empty, width - 1)):
            shared[at - min(empty, width - 1) + before] = piece[before : before + 1]
        shared[at] = piece[min(empty, width - 1) :]
        empty = 0
    return shared


def _sound(logprobs: list[float | None]) -> list[float]:
    """The values, when all are logarithms of probabilities."""
    if None in logprobs:
        raise Fault("no log-probs", f"token {logprobs.index(None)} has none")
    values: list[float] = logprobs  # type: ignore[assignment]
    if values and not (min(values) > _SENTINEL and max(values) <= _ABOVE_ZERO):
        what = f"values from {min(values):g} to {max(values):g} are given"
        if min(values) == _SENTINEL:
            what = f"the placeholder {_SENTINEL:g} is given in place of a log-prob"
        raise Fault("no log-probs", what, of_content=True)
    return values


def _require_pieces(pieces: list[bytes] | None) -> list[bytes]:
    if pieces is None:
        raise Fault(
            "tokens without bytes",
            "the answer has neither token ids nor the tokens' bytes: use a server that knows "
            "return_token_ids, or api: chat",
            of_content=True,
        )
    return pieces


def _spells_both(choice: _Choice) -> bool:
    """Whether the tokens spell thinking part and answer with delimiters about them."""
    try:
        _, _, pieces = _tokens(choice)
    except Fault:
        return False
    text = b"".join(pieces or []).decode(errors="replace")
    said = _said(choice)
    at = 0
    for part in said:
        found = text.find(part.strip(), at)
        if found < 0 or (part is not said[0] and not text[at:found].strip()):
            return False
        at = found + len(part.strip())
    return True


def _put_together(answer: _Answer, choice: _Choice, reasoning: str) -> Generation:
    """A response that a server gives in two fields, in the normalised form; without tokens.

    Its tokens, the delimiters' among them, are not known, and so are no log-probs.
    """
    content = (choice.message.content if choice.message else None) or ""
    text = f"{NORMALISED.open}{reasoning.strip()}{NORMALISED.close}{content.strip()}"
    if "\0" in text:
        raise Fault("malformed answer", "the text holds a NUL character", of_content=True)
    return Generation(
        text=text,
        tokens=NO_TOKENS,
        finish_reason="length" if choice.finish_reason == "length" else "stop",
        usage=_usage(answer, choice),
    )


def _said(choice: _Choice) -> list[str]:
    """What the server gives as text: one, or reasoning and content apart."""
    if choice.message is None:
        return [choice.text or ""]
    message = choice.message
    parts = (message.reasoning or message.reasoning_content, message.content)
    return [part for part in parts if part]


def _without_end_of_turn(text: str, num_bytes: list[int], said: str) -> tuple[str, list[int]]:
    """Take the last token out of the text where only it goes beyond what the server gives.

    Without the tokenizer a token is not known to be special but by this.
    """
    if num_bytes and num_bytes[-1]:
        before = text.encode()[: -num_bytes[-1]].decode(errors="ignore")
        if said and text != said and before.endswith(said):
            return before, [*num_bytes[:-1], 0]
    return text, num_bytes


def _require_same(text: str, choice: _Choice) -> None:
    """Make sure that the tokens spell what the server gives as text.

    Where it keeps reasoning and content apart, each of them is in the text.
    """
    ours = text.replace(_REPLACEMENT, "").strip()
    said = [part.replace(_REPLACEMENT, "").strip() for part in _said(choice)]
    if choice.message is None:
        same = said[0] in (ours, without_markers(ours).strip())
    else:
        at = 0
        for part in said:
            at = ours.find(part, at)
            if at < 0:
                break
            at += len(part)
        same = at >= 0 and bool(said or not ours)
    if not same:
        why = "is the tokenizer the server's?"
        if choice.token_ids is None and _REPLACEMENT in text:
            why = (
                "the server writes a part of a character as U+FFFD; it has to give token ids "
                "(return_token_ids), and model has to name the tokenizer"
            )
        elif choice.message is not None and len(said) > 1:
            why = "start the server without a reasoning parser, or with return_token_ids"
        raise Fault(
            "log-probs of another text",
            f"the tokens do not spell the answer's text; {why}",
            of_content=True,
        )
