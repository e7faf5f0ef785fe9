"""Turns responses into training documents: tokens and loss mask."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from megatron_dasd.arrays import Ints
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.records import Message
from megatron_dasd.text.bulk import BulkEncoder
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import end_of_turn_id, split_example


@dataclass(frozen=True)
class Turns:
    """The parts of one response that are encoded separately, and the student's own ids."""

    prompt: str
    rest: str
    """The response without the student's prefix."""
    prefix_ids: Ints
    ends: bool
    """Whether the turn ends there; not so for a rollout that its cap cut off."""


@dataclass(frozen=True)
class Example:
    """One response, tokenised."""

    prompt_ids: Ints
    response_ids: Ints
    """Ends with the end-of-turn token where the turn does."""
    loss_mask: npt.NDArray[np.uint8]
    """[prompt + response] 1 on the response."""

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and response."""
        return self.loss_mask.size


class ExampleMaker:
    """Makes examples of responses, as one stage's settings say."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, encoder: BulkEncoder, settings: PreprocessData
    ) -> None:
        self._tokenizer, self._encoder, self._settings = tokenizer, encoder, settings
        self._end_of_turn = np.array([end_of_turn_id(tokenizer)])
        # candidates of one prompt lie next to each other
        self._render = lru_cache(maxsize=16)(self._render_turns)

    def turns(
        self,
        messages: Sequence[Message],
        output: str,
        prefix: str,
        prefix_ids: Ints,
        ends: bool = True,
    ) -> Turns:
        """Lay out one response.

        Raises:
            ValueError: the output does not begin with the prefix; the text begins with the field.
            UserError: the chat template refuses the turns.
        """
        asked = self._render(tuple((message.role, message.content) for message in messages))
        return Turns(*split_example(asked, output, prefix), prefix_ids, ends)

    def examples(self, turns: Sequence[Turns]) -> list[Example]:
        """Tokenise; with ``mask_student_prefix`` what the student wrote is no target either."""
        prompts = self._encoder.encode([turn.prompt for turn in turns], parse_special=True)
        rests = self._encoder.encode([turn.rest for turn in turns], parse_special=False)
        made = []
        for turn, prompt, rest in zip(turns, prompts, rests, strict=True):
            end = self._end_of_turn[: int(turn.ends)]
            response = np.concatenate([turn.prefix_ids, rest, end])
            mask = np.ones(prompt.size + response.size, np.uint8)
            mask[: prompt.size] = 0
            if self._settings.mask_student_prefix:
                mask[prompt.size : prompt.size + turn.prefix_ids.size] = 0
            made.append(Example(prompt, response, mask))
        return made

    def check(self, turns: Iterable[Turns]) -> None:
        """Make sure that the ids are exact.

        Raises:
            ExactnessError: they are not.
        """
        self._encoder.check(text for turn in turns for text in (turn.prompt, turn.rest))

    def _render_turns(self, turns: Sequence[tuple[str, str]]) -> str:
        messages = [Message(role=role, content=content) for role, content in turns]  # type: ignore[arg-type]
        return render_prompt(self._tokenizer, messages, self._settings.system_prompt)
