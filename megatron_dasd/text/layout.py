"""A response laid out as the chat template writes it: where the turn begins, what ends it.

The template is asked, by rendering a conversation whose last turn holds two words that occur
nowhere else in place of the thinking part and the answer.  What stands around them is the
template's own: whether the generation prompt opens (or opens and closes) a thinking block, what
separates the parts, what ends the turn.  The prompt is always what the model reads at inference,
the template's rendering with its generation prompt.

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
from megatron_dasd.records import FilteredResponse, Message, Prompt, Span, ToolCall
from megatron_dasd.text.chat import (
    REASONING_FIELDS,
    RefusedTurnsError,
    all_turns,
    render,
    turn_fields,
)
from megatron_dasd.text.encoding import encode
from megatron_dasd.text.thinking import NORMALISED, span_text

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


@dataclass(frozen=True)
class Laid:
    """A response laid out behind its prompt."""

    prompt: str
    """Rendered, without ``opening``."""
    opening: str
    """What the generation prompt says of the turn itself: it is part of the response's tokens,
    since its bytes belong to the output, but the model never writes it."""
    runs: tuple[str | int, ...]
    """The response behind ``opening``: texts whose special tokens are text, and special tokens."""
    spelled: str
    """All of the response's text: what its tokens add up to, special ones left out."""
    spans: tuple[Span, ...]
    """Bytes of the content's parts in ``spelled``."""
    warning: str = ""
    """See :class:`Frame`."""


def encode_laid(tokenizer: PreTrainedTokenizerBase, laid: Laid) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids) of a response laid out; the student's own ids are not part."""
    ids: list[int] = encode(tokenizer, laid.opening)
    # the opening and what follows it are one text to the tokenizer only where no token joins them
    for run in laid.runs:
        ids += [run] if isinstance(run, int) else encode(tokenizer, run, parse_special=False)
    return encode(tokenizer, laid.prompt), ids


def bytes_in_output(
    num_bytes: Sequence[int], spans: Sequence[Span], output: str, output_spans: Sequence[Span]
) -> list[int]:
    """[tokens] Bytes of the normalised output that each token of a response laid out stands for.

    The content is the same in both; what stands around it is not, and is shared out so that every
    byte of the content stays with its token and the sum is the output's size.

    Args:
        num_bytes: [tokens] bytes that each token adds to what is spelled.
        spans: bytes of the content in what is spelled.
        output_spans: bytes of the same content in the output.
    """
    borders = [(0, 0)]
    for here, there in zip(spans, output_spans, strict=True):
        borders += [(here.start, there.start), (here.end, there.end)]
    size = len(output.encode())
    ends, at, before, place = [], 0, 0, 0
    for token_bytes in num_bytes:
        at += token_bytes
        while place + 1 < len(borders) and borders[place + 1][0] <= at:
            # The last token of a gap stands for all that the output has there; so does a token
            # without bytes, where the gap has no other.
            ends_gap = place % 2 == 0 and borders[place][0] < at
            if borders[place + 1][0] == at and token_bytes and not ends_gap:
                break
            place += 1
        own, other = borders[place]
        most = borders[place + 1][1] if place + 1 < len(borders) else size
        before = max(before, min(other + at - own, most))
        ends.append(before)
    ends[-1:] = [size] if ends else []
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def end_of_turn_id(
    tokenizer: PreTrainedTokenizerBase, variables: TemplateVariables | None = None
) -> int:
    """The token that ends an assistant's turn: what the chat template writes behind an answer.

    Raises:
        UserError: there is none, and the tokenizer names no ``eos_token`` either.
    """
    if not tokenizer.chat_template:
        if tokenizer.eos_token_id is None:
            raise UserError(f"{tokenizer.name_or_path}: the tokenizer names no eos_token")
        return int(tokenizer.eos_token_id)
    return _end_of_turn(tokenizer, str(tokenizer.chat_template), tuple((variables or {}).items()))


@lru_cache(maxsize=8)
def _end_of_turn(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    variables: tuple[tuple[str, bool | int | float | str], ...],
) -> int:
    layout = Layout(tokenizer, variables=dict(variables))
    question = Prompt(prompt_id="-", messages=[Message(role="user", content="?")])
    end = layout.lay_out_parts(question, "x", [Span(start=0, end=1)]).runs[-1]
    if not isinstance(end, int):
        raise UserError(f"{tokenizer.name_or_path}: no token of the vocabulary ends a turn")
    return end


class Layout:
    """Lays responses out for one model, with the settings of one stage."""

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
        special = sorted(_special_tokens(tokenizer), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def lay_out(self, response: FilteredResponse, *, ends: bool | None = None) -> Laid:
        """Lay out one response.

        Args:
            ends: whether the turn ends there; None: as its finish reason says.

        Raises:
            ValueError: the template refuses the turns, or the output does not begin with the
                student's prefix.
            UserError: the generation prompt closes the thinking part that the response has.
        """
        if ends is None:
            ends = response.finish_reason == "stop"
        what = response.output, response.output_spans, response.tool_calls
        return self.lay_out_parts(response.prompt, *what, response.student_prefix, ends)

    def lay_out_parts(
        self,
        prompt: Prompt,
        output: str,
        spans: Sequence[Span],
        calls: Sequence[ToolCall] = (),
        prefix: str = "",
        ends: bool = True,
    ) -> Laid:
        """The same, from the fields of a response."""
        if not output.startswith(prefix):
            raise ValueError("output: does not begin with the student's prefix")
        parts = _parts(output, spans)
        frame = self.frame(prompt, len(parts) > 1, bool(parts and parts[-1]), calls)
        if prefix or output != _normalised(parts):
            return self._as_written(frame, output, spans, prefix, ends)
        pieces: list[tuple[str, bool]] = [(frame.before, True)]
        if parts:
            pieces += [(parts[0], False)]
        if len(parts) > 1:
            pieces += [(frame.between, True), (parts[1], False)]
        pieces.append((frame.after if ends or calls else "", True))
        return self._laid(frame, frame.opening, pieces)

    def frame(
        self, prompt: Prompt, thinking: bool, answer: bool = True, calls: Sequence[ToolCall] = ()
    ) -> Frame:
        """The frame of a turn that answers a prompt; candidates of one prompt share it.

        Raises:
            ValueError, UserError: as :meth:`lay_out`.
        """
        key = repr((prompt.messages, prompt.tools, thinking, answer, calls))
        if key not in self._frames:
            if len(self._frames) >= 16:  # candidates of one prompt lie next to each other
                del self._frames[next(iter(self._frames))]
            self._frames[key] = self._find_frame(prompt, thinking, answer, calls)
        return self._frames[key]

    def _as_written(
        self, frame: Frame, output: str, spans: Sequence[Span], prefix: str, ends: bool
    ) -> Laid:
        """The student's own text, whole or as a prefix, laid behind the prompt as it is."""
        opening = frame.opening if output.startswith(frame.opening) else ""
        skip = len((prefix or opening).encode())
        end = [(self._end(frame), True)] if ends else []
        rest = self._laid(frame, opening, [*_pieces(output, spans, skip), *end])
        whole = self._laid(frame, "", _pieces(output, spans, 0))
        own_opening = "" if prefix else opening
        return replace(rest, opening=own_opening, spelled=whole.spelled, spans=whole.spans)

    def _end(self, frame: Frame) -> str:
        tokens = self._special.findall(frame.after)
        return tokens[-1] if tokens else ""

    def _laid(self, frame: Frame, opening: str, pieces: Sequence[tuple[str, bool]]) -> Laid:
        """Split the markup at special tokens, and note where the content lies in what is left."""
        runs: list[str | int] = []
        spans: list[Span] = []
        spelled = self._special.sub("", opening)
        size = len(spelled.encode())
        for text, markup in pieces:
            names = [*self._special.findall(text), ""] if markup else [""]
            texts = self._special.split(text) if markup else [text]
            begin = size
            for plain, name in zip(texts, names, strict=True):
                if plain and runs and isinstance(runs[-1], str):
                    runs[-1] += plain
                elif plain:
                    runs.append(plain)
                spelled += plain
                size += len(plain.encode())
                if name:
                    runs.append(int(self._tokenizer.convert_tokens_to_ids(name)))
            if not markup:
                spans.append(Span(start=begin, end=size))
        return Laid(
            frame.prompt.removesuffix(opening) if opening else frame.prompt,
            opening,
            tuple(runs),
            spelled,
            tuple(spans),
            frame.warning,
        )

    # -- frames --------------------------------------------------------------------------------

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


def _parts(output: str, spans: Sequence[Span]) -> list[str]:
    """The content of an output."""
    size = len(output.encode())
    borders = [0, *(edge for span in spans for edge in (span.start, span.end)), size]
    if borders != sorted(borders):
        raise ValueError(f"output_spans: do not lie in the output of {size} bytes in order")
    return [span_text(output, span) for span in spans]


def _normalised(parts: Sequence[str]) -> str:
    """An output that holds these parts and nothing else."""
    if len(parts) > 1:
        return NORMALISED.open + parts[0] + NORMALISED.close + parts[1]
    return "".join(parts)


def _pieces(output: str, spans: Sequence[Span], skip: int) -> list[tuple[str, bool]]:
    """An output behind its first ``skip`` bytes: (text, whether it is markup), one by one."""
    data, at, pieces = output.encode(), 0, []
    for span in spans:
        pieces += [(at, span.start, True), (span.start, span.end, False)]
        at = span.end
    pieces.append((at, len(data), bool(spans)))
    return [
        (data[max(first, skip) : max(last, skip)].decode(), markup)
        for first, last, markup in pieces
    ]


@lru_cache(maxsize=8)
def reasoning_field(tokenizer: PreTrainedTokenizerBase) -> str:
    """The field of an assistant's turn in which a template looks for the thinking part."""
    source = str(tokenizer.chat_template)
    return next((name for name in REASONING_FIELDS if name in source), REASONING_FIELDS[0])


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    added = tokenizer.added_tokens_decoder.values()
    return tuple(token.content for token in added if token.special)
