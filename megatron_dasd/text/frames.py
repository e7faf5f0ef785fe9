"""What a chat template writes around an assistant's turn, found by rendering.

The template is asked, by rendering a conversation whose last turn holds two words that occur
nowhere else in place of the thinking part and the answer.  What stands around them is the
template's own: whether the generation prompt opens (or opens and closes) a thinking block, what
separates the parts, what ends the turn.

A template that does not write a turn's thinking part at all is met by the normalised form behind
its generation prompt; see docs/data.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from megatron_dasd.config.base import TemplateVariables
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject
from megatron_dasd.records import Message, Prompt, ToolCall
from megatron_dasd.text.chat import (
    REASONING_FIELDS,
    RefusedTurnsError,
    all_turns,
    render,
    turn_fields,
)
from megatron_dasd.text.thinking import NORMALISED

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase

_THINKING, _ANSWER, _NEXT = "Qzthinkingzq", "Qzanswerzq", "Qznextzq"
"""Words in place of the parts and of the next turn."""
_STRIPPED = "the template leaves the thinking part out of a rendered conversation"
_OTHER_BEGINNING = (
    "the template begins a rendered turn in another way than the one that it asks for"
)
_EARLIER = "the template writes the turns before this one in another way once it is there"
_OPEN, _CLOSE = NORMALISED.open.strip(), NORMALISED.close.strip()


@dataclass(frozen=True)
class Frame:
    """What a template writes around the parts of an assistant's turn."""

    prompt: str
    """The rendering with the generation prompt, which the model reads at inference."""
    opening: str
    """The end of ``prompt`` that opens the thinking part; empty where the turn itself opens it."""
    before: str
    """Between the prompt and the first part."""
    between: str
    """Between thinking part and answer; empty where there is one part."""
    after: str
    """Behind the last part: tool calls, and the token that ends the turn."""
    warning: str = ""
    """In what a rendered conversation differs from this, which is what the model meets."""


class Frames:
    """The frames of one model's turns, with the settings of one stage."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str | None = None,
        few_shot: Sequence[Message] = (),
        variables: TemplateVariables | None = None,
    ) -> None:
        """See :func:`chat.render_turns` for the arguments."""
        self._tokenizer = tokenizer
        self._system_prompt, self._few_shot = system_prompt, few_shot
        self._variables = variables or {}
        self._frames: dict[str, Frame] = {}
        self._special = special_tokens(tokenizer)

    def frame(
        self, prompt: Prompt, thinking: bool, answer: bool = True, calls: Sequence[ToolCall] = ()
    ) -> Frame:
        """The frame of a turn that answers a prompt; candidates of one prompt share it.

        Raises:
            ValueError: the template refuses the turns.
            UserError: the generation prompt closes the thinking part that the turn has.
        """
        key = repr((prompt.messages, prompt.tools, thinking, answer, calls))
        if key not in self._frames:
            if len(self._frames) >= 16:  # candidates of one prompt lie next to each other
                del self._frames[next(iter(self._frames))]
            self._frames[key] = self._find_frame(prompt, thinking, answer, calls)
        return self._frames[key]

    def _find_frame(
        self, prompt: Prompt, thinking: bool, answer: bool, calls: Sequence[ToolCall]
    ) -> Frame:
        for call in calls:
            if token := self._special.search(call.name + call.arguments):
                raise ValueError(f"tool_calls: hold the control token {token.group()}")
        turns = all_turns(prompt.messages, self._system_prompt, self._few_shot)
        fields = [turn_fields(turn, reasoning_field(self._tokenizer)) for turn in turns]
        asked = render(self._tokenizer, fields, prompt.tools, self._variables, begin=True)
        if thinking and asked.rstrip().endswith(_CLOSE):
            raise UserError(
                f"{self._tokenizer.name_or_path}: the chat template's generation prompt closes the "
                "thinking part, and the response has one: set chat_template_kwargs (for most "
                "templates {enable_thinking: true}), or keep plain answers (thinking: null)"
            )
        opens = asked.rstrip().endswith(_OPEN)
        opening = asked[asked.rindex(_OPEN) :] if opens else ""
        content = _ANSWER if answer or not (calls or thinking) else ""
        own = turn_fields(Message(role="assistant", content=content or "x", tool_calls=list(calls)))
        own["content"] = content
        words = [word for word, there in ((_THINKING, thinking), (_ANSWER, content)) if there]
        found = self._found(fields, own, prompt.tools, asked, words)
        if found:
            opening = opening if thinking else ""
            return replace(found, opening=opening)
        # No rendered turn holds the parts behind the generation prompt: its end alone is taken.
        whole = self._render([*fields, own], prompt.tools)
        words, start = words[int(thinking) :], _num_shared(whole, asked)
        closed = whole.find(_CLOSE, max(start - len(_CLOSE), 0)) if opening else -1
        start = start if closed < 0 else closed + len(_CLOSE)
        after = self._after(whole, fields, own, prompt.tools, words, start)
        other = [] if thinking else [_THINKING]
        known = self._found(fields, own, prompt.tools, asked, [*other, _ANSWER])
        return _own_frame(asked, opening, thinking, known, after)

    def _found(
        self,
        fields: Sequence[JsonObject],
        own: JsonObject,
        tools: str | None,
        asked: str,
        words: Sequence[str],
    ) -> Frame | None:
        """The frame in which a template writes the words of a turn; None: it does not.

        A template that leaves earlier turns' thinking out may do so as soon as the turn is there.
        Then what follows the last generation prompt in the rendering is the turn.
        """
        begun = self._whole(fields, tools)
        header = asked.removeprefix(begun) if asked.startswith(begun) else ""
        wholes = [
            (turn, self._whole([*fields, turn], tools))
            for turn in _spellings(own, _THINKING in words)
        ]
        for exact in (True, False):
            for turn, whole in wholes:
                places = [whole.find(word) for word in words]
                if -1 in places or places != sorted(places):
                    continue
                first = places[0] if places else len(whole)
                start = len(asked) if whole.startswith(asked) else -1
                if start < 0 and header and not exact and words:
                    start = whole.rfind(header, 0, first) + len(header)
                    start = -1 if start < len(header) else start
                if start < 0:
                    continue
                return Frame(
                    prompt=asked,
                    opening="",
                    before=whole[start:first] if words else "",
                    between=whole[first + len(words[0]) : places[1]] if len(words) > 1 else "",
                    after=self._after(whole, fields, turn, tools, words, start),
                    warning="" if exact else _EARLIER,
                )
        return None

    def _render(self, turns: Sequence[JsonObject], tools: str | None) -> str:
        return render(self._tokenizer, turns, tools, self._variables, begin=False)

    def _whole(self, turns: Sequence[JsonObject], tools: str | None) -> str:
        """A rendered conversation; empty where the template refuses it."""
        try:
            return self._render(turns, tools)
        except RefusedTurnsError:
            return ""

    def _after(
        self,
        whole: str,
        fields: Sequence[JsonObject],
        turn: JsonObject,
        tools: str | None,
        words: Sequence[str],
        start: int,
    ) -> str:
        """What stands behind a turn's last part, up to the special token that ends the turn.

        Args:
            whole: the conversation that ends with ``turn``.
            words: those in place of the parts that are rendered.
            start: where the turn begins in ``whole``.
        """
        calls = "tool_calls" in turn
        following: JsonObject = {"role": "tool" if calls else "user", "content": _NEXT}
        more = self._whole([*fields, turn, following], tools)
        for text in (whole, more[: max(more.rfind(_NEXT), 0)]):
            # Some templates end a turn only by what begins the next one.
            at = text.rfind(words[-1]) + len(words[-1]) if words else start
            ends = list(self._special.finditer(text, at))
            if ends:
                return text[at : (ends[-1] if calls else ends[0]).end()]
        end = self._tokenizer.eos_token
        if end is None:
            raise UserError(f"{self._tokenizer.name_or_path}: the tokenizer names no eos_token")
        at = whole.rfind(words[-1]) + len(words[-1]) if words else start
        return whole[at:].rstrip() + str(end)


def _spellings(own: JsonObject, thinking: bool) -> list[JsonObject]:
    """The ways to hand a template a turn: its thinking in a field of its own, or in the text."""
    if not thinking:
        return [own]
    inline = f"{NORMALISED.open}{_THINKING}{NORMALISED.close}{own['content']}"
    fields: list[JsonObject] = [own | {name: _THINKING} for name in REASONING_FIELDS]
    return [*fields, own | {"content": inline}]


def _num_shared(one: str, other: str) -> int:
    """How many characters two texts begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _own_frame(asked: str, opening: str, thinking: bool, known: Frame | None, after: str) -> Frame:
    """The normalised form behind a generation prompt that no rendered turn begins with.

    Args:
        known: the frame of the same answer with a thinking part, for a plain one, and the other
            way round, where the template writes that.
    """
    if thinking:
        before = "" if opening else NORMALISED.open
        closes = known is not None and opening and _CLOSE in known.before
        between = known.before if known and closes else NORMALISED.close
        return Frame(asked, opening, before, between, after, _STRIPPED)
    between = known.between if known and known.between else NORMALISED.close
    before = between.lstrip("\n") if opening else ""
    return Frame(asked, "", before, "", after, _OTHER_BEGINNING)


@lru_cache(maxsize=8)
def reasoning_field(tokenizer: PreTrainedTokenizerBase) -> str:
    """The field of an assistant's turn in which a template looks for the thinking part."""
    source = str(tokenizer.chat_template)
    return next((name for name in REASONING_FIELDS if name in source), REASONING_FIELDS[0])


@lru_cache(maxsize=8)
def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """What finds special tokens in a rendered text, the longest first."""
    added = tokenizer.added_tokens_decoder.values()
    names = sorted((token.content for token in added if token.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")
