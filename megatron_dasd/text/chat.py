"""Conversations as the text that a model reads, by the chat template of its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from megatron_dasd.errors import UserError
from megatron_dasd.records import Message
from megatron_dasd.records_io import read_records

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedTokenizerBase


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    system_prompt: str | None = None,
    few_shot: Sequence[Message] = (),
) -> str:
    """Return the text that asks for the next assistant turn, special tokens written out.

    Raises:
        UserError: the tokenizer has no chat template, or its template refuses the turns.
    """
    return render_turns(tokenizer, all_turns(messages, system_prompt, few_shot))


def all_turns(
    messages: Sequence[Message],
    system_prompt: str | None = None,
    few_shot: Sequence[Message] = (),
) -> tuple[Message, ...]:
    """The turns that a model is asked with: the system's, the few-shot ones, the rest.

    A system turn that opens ``messages`` stands in place of ``system_prompt``: it belongs to the
    task.
    """
    own = list(messages[:1]) if messages and messages[0].role == "system" else []
    system = own or ([Message(role="system", content=system_prompt)] if system_prompt else [])
    return (*system, *few_shot, *messages[len(own) :])


def render_turns(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message]) -> str:
    """The turns by the tokenizer's chat template, the next assistant turn begun.

    Raises:
        UserError: the tokenizer has no chat template, or its template refuses the turns.
    """
    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template")
    try:
        text = tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            add_generation_prompt=True,
            tokenize=False,
        )
    except TemplateError as error:
        roles = ", ".join(turn.role for turn in turns)
        raise UserError(
            f"{tokenizer.name_or_path}: the chat template refuses the turns {roles} ({error})"
        ) from None
    return str(text)


def read_few_shot(path: Path | None) -> list[Message]:
    """Read the example turns that a teacher sees before a prompt; none without a path.

    Raises:
        UserError: they are not pairs of a user's and an assistant's turn.
    """
    turns = list(read_records(path, Message)) if path else []
    roles = [turn.role for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise UserError(f"{path}: wanted pairs of a user's and an assistant's turn")
    return turns
