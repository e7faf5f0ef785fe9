"""Filters on a text, and packing of lengths, in memory."""

from collections.abc import Sequence

import numpy as np

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.selection import FilterResponses, Repetition
from megatron_dasd.data.packing import aligned, best_fit_decreasing
from megatron_dasd.filters.case import make_case
from megatron_dasd.filters.rules import first_reason
from megatron_dasd.records import FinishReason, Message, Prompt, Response, TokenLogprobs


def drop_reason(
    text: str,
    *,
    thinking: ThinkingFormat | None = None,
    repetition: Repetition | None = None,
    finish_reason: FinishReason = "stop",
) -> tuple[str, str] | None:
    """Apply the quality filters to one response.

    Length, benchmarks and duplicates are not looked at: they need a tokenizer, files and the other
    responses, and belong to the stage ``filter_responses``.

    Args:
        text: the response, thinking part included.
        thinking: its delimiters; None: ``<think>`` ... ``</think>``.
        repetition: bounds of repetition; None: those of the stage.
        finish_reason: ``length`` for a response that was cut off.

    Returns:
        The reason to drop it and what was found; None for a response to keep.

    Example:
        >>> drop_reason("<think>\\nTwo and two are four.\\n</think>\\n\\nIt is 4.")
        >>> drop_reason("It is 4.")[0]
        'structure'
    """
    settings = FilterResponses(
        kind="filter_responses",
        responses=["-"],
        student="-",
        max_length=1,
        thinking=thinking or ThinkingFormat(),
        repetition=repetition or Repetition(),
    )
    sizes = [len(text.encode())]
    response = Response(
        prompt=Prompt(prompt_id="-", messages=[Message(role="user", content="-")]),
        temperature=1.0,
        candidate=0,
        seed=0,
        model="",
        text=text,
        tokens=TokenLogprobs(token_ids=[0], num_bytes=sizes, logprobs=[0.0]),
        finish_reason=finish_reason,
    )
    return first_reason(make_case(response, settings))


def pack(lengths: Sequence[int], capacity: int, align: int = 1) -> list[list[int]]:
    """Pack documents into rows by their lengths (best fit decreasing).

    Args:
        lengths: tokens of each document, at least 1.
        capacity: tokens of a row.
        align: every document is padded to a multiple of this many positions.

    Returns:
        [rows] the numbers of each row's documents.

    Raises:
        ValueError: a document is empty or longer than a row.

    Example:
        >>> pack([6, 5, 4, 3], capacity=9)
        [[0, 3], [1, 2]]
    """
    sizes = aligned(np.array(lengths, dtype=np.int64), align)
    return [row.tolist() for row in best_fit_decreasing(sizes, capacity)]
