"""The harmony format of gpt-oss: messages in channels, set apart by special tokens.

::

    <|channel|>analysis<|message|> thinking <|end|>
    <|start|>assistant<|channel|>final<|message|> answer <|return|>

A tool call is a message to a recipient, ``<|channel|>commentary to=functions.f
<|constrain|>json<|message|>{...}<|call|>``.  The markers are special tokens and yet the text's
delimiters, so they count as text (:func:`text_bytes`); ``<|return|>`` ends the turn and does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from megatron_dasd.records import Span
from megatron_dasd.text.encoding import token_bytes

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>", "<|call|>")
_HEADER = re.compile(
    r"(?:<\|start\|>(?P<role>[^<]*))?(?:<\|channel\|>(?P<channel>[^<]*))?"
    r"(?:<\|constrain\|>(?P<type>[^<]*))?<\|message\|>"
)
_MARKER = re.compile("|".join(map(re.escape, MARKERS)))
_END = re.compile(r"<\|(?:end|call|return|start)\|>")
_BLANK = re.compile(r"\s*")
_RECIPIENT = re.compile(r"\bto=(\S+)")


@dataclass(frozen=True)
class HarmonyMessage:
    """One message of an assistant's turn."""

    channel: str
    """``analysis``, ``commentary``, ``final``; empty where none is named."""
    recipient: str | None
    """The tool that is called; None: the message is for the reader."""
    start: int
    """Characters of the content in the text."""
    end: int
    closed: bool
    """Whether a marker ends the message; the last one's may be the end of the turn."""


def marker_bytes(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """The markers that count as text, by token id; none for a tokenizer without harmony."""
    return dict(_marker_items(tokenizer))


def text_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[bytes]:
    """The bytes of text that each token adds: as :func:`token_bytes`, and those of the markers."""
    pieces = token_bytes(tokenizer, ids)
    markers = marker_bytes(tokenizer)
    if not markers:
        return pieces
    return [markers.get(i, piece) for i, piece in zip(ids, pieces, strict=True)]


def without_markers(text: str) -> str:
    """A text as a server gives it that leaves special tokens out."""
    return _MARKER.sub("", text) if "<|" in text else text


def parse_harmony(text: str) -> list[HarmonyMessage] | None:
    """Read an assistant's turn, its first ``<|start|>assistant`` written or not.

    Returns:
        The messages in order; None when the text is not in the format.
    """
    messages, at = [], _blank_end(text, 0)
    while at < len(text):
        header = _HEADER.match(text, at)
        if header is None or (header["channel"] is None and header["role"] is None):
            return None
        end = _END.search(text, header.end())
        stop = end.start() if end else len(text)
        said = f"{header['role'] or ''} {header['channel'] or ''}"
        recipient = _RECIPIENT.search(said)
        channel = (header["channel"] or "").split()
        messages.append(
            HarmonyMessage(
                channel=channel[0] if channel else "",
                recipient=recipient[1] if recipient else None,
                start=header.end(),
                end=stop,
                closed=end is not None,
            )
        )
        at = stop if end is None or end.group() == "<|start|>" else end.end()
        at = _blank_end(text, at)
    return messages or None


def has_tool_call(text: str) -> bool:
    """Whether a turn in the harmony format calls a tool; False for other texts."""
    messages = parse_harmony(text)
    return any(message.recipient is not None for message in messages or ())


def split_harmony(text: str) -> list[Span] | None:
    """Find the thinking part and the answer, outer whitespace left out.

    They are the one message of the analysis channel and the one of the final channel after it.
    Several of either, a preamble in the commentary channel or a tool call are not the form that a
    student is to learn.

    Returns:
        Byte spans of thinking part and answer; None when the text has another form.
    """
    messages = parse_harmony(text)
    if messages is None or [m.channel for m in messages] != ["analysis", "final"]:
        return None
    if any(message.recipient is not None for message in messages):
        return None
    spans = []
    for message in messages:
        content = text[message.start : message.end]
        start = message.start + len(content) - len(content.lstrip())
        end = message.start + len(content.rstrip())
        if start >= end:
            return None
        first = len(text[:start].encode())
        spans.append(Span(start=first, end=first + len(text[start:end].encode())))
    return spans


def _blank_end(text: str, at: int) -> int:
    """Where the whitespace that begins at ``at`` ends."""
    blank = _BLANK.match(text, at)
    assert blank is not None
    return blank.end()


@lru_cache(maxsize=8)
def _marker_items(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, bytes], ...]:
    special = {str(t): i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    if not {"<|channel|>", "<|message|>"} <= set(special):
        return ()
    return tuple((special[name], name.encode()) for name in MARKERS if name in special)
