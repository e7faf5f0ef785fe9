"""The columns of other programs' files: presets by name, and settings of single columns."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from megatron_dasd.config.base import OnMalformed, Settings

Split = Literal["train", "heldout"]


class Columns(BaseModel):
    """Which column of a file holds what; None: none does.

    A conversation is in ``messages``, or as one text in ``text``, or its question and answer are in
    columns of their own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: str | None = None
    """A list of turns, the last of which is the assistant's."""
    text: str | None = None
    """A whole conversation, rendered by ChatML, harmony or Llama 3's template."""
    prompt: str | None = None
    """The user's text, or a list of turns up to the user's."""
    input: tuple[str, ...] = ()
    """Text that is put after the prompt, with an empty line between them.  Of several columns, the
    first that a row has."""
    system: str | None = None
    """Text of a system turn that is put before the others."""
    thinking: tuple[str, ...] = ()
    """The thinking part of the response, or a list of one for each response.  Of several columns,
    the first that a row has."""
    response: str | None = None
    """The response, a list of responses to the prompt, or the assistant's turn in a list."""
    finish_reason: str | None = None
    """Why the response ends: ``stop`` or ``length``; or a list of one for each response."""
    id: str | None = None
    """The prompt's id."""
    domain: str | None = None
    """The prompt's domain."""
    reference_answer: str | None = None
    """The right answer."""
    marks: tuple[str, ...] = ()
    """Further columns by which a file of this shape is known."""

    @property
    def question(self) -> tuple[str, ...]:
        """The columns without which there is no prompt."""
        return tuple(filter(None, (self.messages, self.text, self.prompt)))

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every file of this shape has, whatever its rows lack."""
        answer = (*self.thinking, self.response) if self.prompt else ()
        return (*self.question, *filter(None, answer), *self.marks)


PRESETS = {
    "messages": Columns(messages="messages"),
    "sharegpt": Columns(messages="conversations", system="system"),
    "alpaca": Columns(prompt="instruction", input=("input",), response="output", system="system"),
    "dolly": Columns(prompt="instruction", input=("context",), response="response"),
    "prompt-response": Columns(prompt="prompt", response="response", system="system"),
    "prompt-completion": Columns(prompt="prompt", response="completion", system="system"),
    "question-answer": Columns(prompt="question", response="answer"),
    "input-output": Columns(prompt="input", response="output", system="system_prompt"),
    "superior-reasoning": Columns(prompt="input", response="output", marks=("uuid",)),
    "s1k": Columns(prompt="question", thinking=("thinking_trajectories",), response="attempt"),
    "s1k-deepseek": Columns(
        prompt="question", thinking=("deepseek_thinking_trajectory",), response="deepseek_attempt"
    ),
    "s1k-gemini": Columns(
        prompt="question", thinking=("gemini_thinking_trajectory",), response="gemini_attempt"
    ),
    "openthoughts": Columns(
        prompt="problem", thinking=("deepseek_reasoning",), response="deepseek_solution"
    ),
    "openr1": Columns(prompt="problem", response="generations", finish_reason="finish_reasons"),
    "openmathreasoning": Columns(prompt="problem", response="generated_solution"),
    "numinamath": Columns(prompt="problem", response="solution"),
    "openorca": Columns(prompt="question", response="response", system="system_prompt"),
    "medical-o1": Columns(prompt="Question", thinking=("Complex_CoT",), response="Response"),
    "dolphin-r1": Columns(prompt="messages", thinking=("reasoning",), response="answer"),
    "rendered-text": Columns(text="text"),
}
"""Shapes of released data sets and of other programs' files, by name."""

_INPUT_OF = {"instruction": ("input", "context")}
"""Columns that go on with a column of prompts."""
_THINKING_OF = {preset.response: preset.thinking for preset in PRESETS.values() if preset.thinking}
"""Columns of the thinking part that belongs to a column of responses."""
_THINKING = ("reasoning_content", "reasoning", "thinking")
"""Columns of the thinking part beside any column of responses."""

_OVERRIDES = (
    "messages",
    "text",
    "prompt",
    "input",
    "system",
    "thinking",
    "response",
    "finish_reason",
    "id",
    "domain",
)
Column = Annotated[str | None, Field(max_length=1000)]


class UserFiles(Settings):
    """What stages share that read users' files: the files' format, columns and splits.

    A ``*_field`` names a column in place of the format's; an empty name: no column.
    """

    format: str | None = None
    """Name of a preset (docs/own_data.md lists them)."""
    messages_field: Column = None
    """Column of a list of turns."""
    text_field: Column = None
    """Column of a conversation as one text, rendered by ChatML, harmony or Llama 3's template."""
    prompt_field: Column = None
    """Column of a text, or of a list of turns up to the user's."""
    input_field: Column = None
    """Column of a text that is put after the prompt."""
    system_field: Column = None
    """Column of a system turn's text."""
    thinking_field: Column = None
    """Column of the response's thinking part."""
    response_field: Column = None
    """Column of a text, or of a list of responses to the prompt."""
    finish_reason_field: Column = None
    """Column of ``stop`` or ``length``."""
    id_field: Column = None
    """Column of the prompt's id; None: the id is a hash of the prompt's text."""
    domain_field: Column = "domain"
    """Column of the domain; where it is absent or empty, the domain is ``unknown``."""
    splits: dict[str, Split] | None = None
    """The splits of a folder that are read, and whether each trains.  None: all of them; ``train``
    trains, ``test`` and ``validation`` are held out."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""

    @field_validator("format")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in PRESETS:
            raise ValueError(f"no format {name} (there are: {', '.join(PRESETS)})")
        return name

    @property
    def names_a_shape(self) -> bool:
        """Whether the settings say where a row's conversation is."""
        return bool(self.format or self.messages_field or self.text_field or self.prompt_field)

    @property
    def _own_columns(self) -> dict[str, str]:
        """The columns that the settings name themselves, by what they hold."""
        given = {name: getattr(self, f"{name}_field") for name in _OVERRIDES}
        return {name: column for name, column in given.items() if column is not None}

    def columns(self, preset: Columns | None = None) -> Columns:
        """The columns of the files: those of the format, with those that the settings name.

        Args:
            preset: in place of the format's.
        """
        preset = preset or (PRESETS[self.format] if self.format else Columns())
        own: dict[str, str | tuple[str, ...] | None] = {
            name: column or None for name, column in self._own_columns.items()
        }
        if self.finish_reason_field is None:
            own["finish_reason"] = preset.finish_reason or "finish_reason"
        prompt = own.get("prompt", preset.prompt)
        response = own.get("response", preset.response)
        own["input"] = (
            tuple(filter(None, [self.input_field]))
            if self.input_field is not None
            else preset.input or _INPUT_OF.get(str(prompt), ())
        )
        own["thinking"] = (
            tuple(filter(None, [self.thinking_field]))
            if self.thinking_field is not None
            else preset.thinking or _THINKING_OF.get(str(response), _THINKING)
        )
        return preset.model_copy(update=own)
