"""A response laid out as the chat template writes it: where the turn begins, what ends it.

What stands around the content is the template's own (``text.frames``).  The prompt is always what
the model reads at inference, the template's rendering with its generation prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from megatron_dasd.config.base import TemplateVariables
from megatron_dasd.errors import UserError
from megatron_dasd.records import FilteredResponse, Message, Prompt, Span, ToolCall
from megatron_dasd.text.encoding import encode
from megatron_dasd.text.frames import Frame, Frames, special_tokens
from megatron_dasd.text.thinking import NORMALISED, span_text

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase


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
        self._frames = Frames(tokenizer, system_prompt, few_shot, variables)
        self._special = special_tokens(tokenizer)

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
        frame = self._frames.frame(prompt, len(parts) > 1, bool(parts and parts[-1]), calls)
        if prefix or output != _normalised(parts):
            return self._as_written(frame, output, spans, prefix, ends)
        pieces: list[tuple[str, bool]] = [(frame.before, True)]
        if parts:
            pieces += [(parts[0], False)]
        if len(parts) > 1:
            pieces += [(frame.between, True), (parts[1], False)]
        pieces.append((frame.after if ends or calls else "", True))
        return self._laid(frame, frame.opening, pieces)

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
