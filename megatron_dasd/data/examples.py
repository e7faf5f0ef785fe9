"""Turns responses into training documents: tokens and loss mask."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from megatron_dasd.arrays import Ints
from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.records import Prompt, Span, ToolCall
from megatron_dasd.text.bulk import BulkEncoder
from megatron_dasd.text.layout import Laid, Layout
from megatron_dasd.text.thinking import NORMALISED, normalise, with_calls

_ANY = ThinkingFormat(required=False)
NO_IDS: Ints = np.zeros(0, np.int64)
"""The student's ids where it wrote nothing."""


@dataclass(frozen=True)
class Turns:
    """One response laid out, and the student's own ids."""

    laid: Laid
    prefix_ids: Ints

    @property
    def texts(self) -> list[str]:
        """The texts that are encoded separately, special tokens in them being text."""
        return [run for run in self.laid.runs if isinstance(run, str)]


@dataclass(frozen=True)
class Example:
    """One response, tokenised."""

    prompt_ids: Ints
    response_ids: Ints
    """Ends with the end-of-turn token where the turn does."""
    loss_mask: npt.NDArray[np.uint8]
    """[prompt + response] 1 on what the model writes itself."""

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
        self._layout = Layout(
            tokenizer, settings.system_prompt, variables=settings.chat_template_kwargs
        )

    def turns(
        self,
        prompt: Prompt,
        output: str,
        spans: Sequence[Span],
        calls: Sequence[ToolCall] = (),
        prefix: str = "",
        prefix_ids: Ints = NO_IDS,
        ends: bool = True,
    ) -> Turns:
        """Lay out one response.

        Args:
            ends: whether the turn ends there; not so for a rollout that its cap cut off.

        Raises:
            ValueError: the output does not begin with the prefix, or the template refuses the
                turns; the text begins with the field.
            UserError: the template closes the thinking part.
        """
        laid = self._layout.lay_out_parts(prompt, output, spans, calls, prefix, ends)
        return Turns(laid, prefix_ids)

    def examples(self, turns: Sequence[Turns]) -> list[Example]:
        """Tokenise; with ``mask_student_prefix`` what the student wrote is no target either."""
        markup = [text for turn in turns for text in (turn.laid.prompt, turn.laid.opening)]
        rendered = iter(self._encoder.encode(markup, parse_special=True))
        written = iter(
            self._encoder.encode([t for turn in turns for t in turn.texts], parse_special=False)
        )
        made = []
        for turn in turns:
            prompt, opening = next(rendered), next(rendered)
            runs = [
                np.array([run]) if isinstance(run, int) else next(written) for run in turn.laid.runs
            ]
            response = np.concatenate([opening, turn.prefix_ids, *runs]).astype(np.int64)
            mask = np.ones(prompt.size + response.size, np.uint8)
            # the generation prompt opens the thinking part: the model never writes that itself
            mask[: prompt.size + opening.size] = 0
            if self._settings.mask_student_prefix:
                mask[prompt.size : prompt.size + turn.prefix_ids.size] = 0
            made.append(Example(prompt, response, mask))
        return made

    def earlier(self, prompt: Prompt) -> Iterator[tuple[int, Turns]]:
        """(place, layout) of every assistant turn of a prompt that may be trained on.

        Each is laid behind the prompt that asks for it, as the model would meet it at that turn.

        Raises:
            ValueError: as :meth:`turns`.
        """
        for place, message in enumerate(prompt.messages):
            before = prompt.messages[:place]
            if message.role != "assistant" or not message.trains or not before:
                continue
            if before[-1].role in ("user", "tool"):
                text = message.content
                if message.thinking:
                    text = NORMALISED.open + message.thinking + NORMALISED.close + text
                whole = with_calls(text, _ANY) if message.tool_calls else normalise(text, _ANY)
                if whole is not None:
                    asked = replace(prompt, messages=before)
                    what = whole.output, whole.output_spans, message.tool_calls
                    yield place, self.turns(asked, *what)

    def decode(self, ids: Ints) -> str:
        """The text of some ids, special tokens written out."""
        return str(self._tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))

    def check(self, turns: Iterable[Turns]) -> None:
        """Make sure that the ids are exact.

        Raises:
            ExactnessError: they are not.
        """
        self._encoder.check(text for turn in turns for text in (turn.laid.prompt, *turn.texts))
