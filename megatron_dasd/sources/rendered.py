"""Conversations read back from text that a known chat template rendered."""

import re
from dataclasses import dataclass

from megatron_dasd.json_values import JsonObject
from megatron_dasd.sources.turns import with_thinking


@dataclass(frozen=True)
class _Template:
    """How a template marks turns; each pattern ends where the content begins, or is its end."""

    name: str
    header: re.Pattern[str]
    end: str
    begin: str = ""


_CHATML = _Template("ChatML", re.compile(r"<\|im_start\|>(\w+)\n"), "<|im_end|>")
_LLAMA = _Template(
    "Llama 3's template",
    re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n"),
    "<|eot_id|>",
    "<|begin_of_text|>",
)
_HARMONY_HEADER = re.compile(
    r"<\|start\|>(?P<role>[^<]*)(?:<\|channel\|>(?P<channel>[^<]*))?(?P<more><\|constrain\|>[^<]*)?"
    r"<\|message\|>"
)
_HARMONY_END = re.compile(r"<\|(?:end|return|call)\|>")
_INSTRUCTIONS = "# Instructions\n\n"
_THOUGHT = re.compile(
    r"\s*<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*"
    r"<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?\s*",
    re.DOTALL,
)


def read_rendered(text: str) -> list[JsonObject]:
    """The turns of a rendered conversation.

    Raises:
        ValueError: the text is in none of the known templates, or is damaged.
    """
    text = text.strip()
    for template in (_CHATML, _LLAMA):
        body = text.removeprefix(template.begin)
        if template.header.match(body):
            return _read(body, template)
    if _HARMONY_HEADER.match(text):
        return _read_harmony(text)
    raise ValueError(
        "is not rendered by a template that is known (ChatML, harmony, Llama 3's); plain text "
        "without turns is for preprocess_text"
    )


def _read(text: str, template: _Template) -> list[JsonObject]:
    turns: list[JsonObject] = []
    at = 0
    while at < len(text):
        header = template.header.match(text, at)
        if header is None:
            raise ValueError(f"no turn of {template.name} at character {at}")
        end = text.find(template.end, header.end())
        if end < 0 or template.header.search(text, header.end(), end):
            raise ValueError(f"turn {len(turns)} lacks {template.end}, as a text that was cut off")
        turns.append({"role": header[1], "content": text[header.end() : end]})
        at = end + len(template.end)
        at += len(text[at:]) - len(text[at:].lstrip("\n"))
    return turns


def _read_harmony(text: str) -> list[JsonObject]:
    """The turns of harmony; the template's own system message, which a student does not have, is
    left out."""
    turns: list[JsonObject] = []
    thinking: str | None = None
    at = 0
    while at < len(text):
        header = _HARMONY_HEADER.match(text, at)
        end = _HARMONY_END.search(text, header.end()) if header else None
        if header is None or end is None:
            raise ValueError(f"no whole message of harmony at character {at}")
        role, channel = header["role"].strip(), (header["channel"] or "").split()
        content = text[header.end() : end.start()]
        at = end.end() + len(text[end.end() :]) - len(text[end.end() :].lstrip("\n"))
        if "to=" in header.group() or header["more"] or end.group() == "<|call|>":
            raise ValueError("calls of tools cannot be imported")
        if role == "developer":
            turns.append({"role": "system", "content": content.removeprefix(_INSTRUCTIONS)})
        elif role == "assistant" and channel == ["analysis"]:
            thinking = content
        elif role == "assistant":
            if channel not in ([], ["final"]):
                raise ValueError(f"a message in the channel {channel[0]} cannot be imported")
            joined = content if thinking is None else with_thinking(thinking, content)
            turns.append({"role": role, "content": joined})
            thinking = None
        elif role != "system":
            turns.append({"role": role, "content": content})
    if thinking is not None:
        raise ValueError("ends after the thinking part, as a text that was cut off")
    return turns


def normalised_thoughts(text: str) -> str:
    """A response in the delimiters ``<|begin_of_thought|>`` in the normalised ones; others as they
    are."""
    found = _THOUGHT.fullmatch(text)
    return with_thinking(found[1].strip(), found[2].strip()) if found else text
