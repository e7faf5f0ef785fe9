"""How candidate responses are ranked.

METHOD: divergence-aware sampling.  ``count`` is the method.  The other strategies are its controls,
since longer responses tend to have more teacher sentences.  To add a strategy, add its name to
``Strategy`` in ``config/selection.py`` and an object to :data:`STRATEGIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np

from megatron_dasd.arrays import Floats, Ints
from megatron_dasd.config.registry import Registry
from megatron_dasd.config.selection import Strategy


@dataclass(frozen=True)
class Ranking:
    """A selection strategy."""

    name: Strategy
    description: str
    """Which candidates come first, as docs/divergence.md shows it."""
    scores: Callable[[Ints, Ints, Ints], Floats]
    """Called with the number of teacher sentences, the number of sentences and the length of the
    content in the teacher's tokens, each [candidates]; returns [candidates], highest first."""


STRATEGIES = Registry(
    "strategy",
    [
        Ranking(
            "count",
            "most teacher sentences (the method)",
            lambda num_teacher, num_sentences, length: num_teacher.astype(np.float64),
        ),
        Ranking(
            "ratio",
            "largest share of teacher sentences",
            lambda num_teacher, num_sentences, length: num_teacher / np.maximum(num_sentences, 1),
        ),
        Ranking(
            "longest",
            "most tokens of the teacher",
            lambda num_teacher, num_sentences, length: length.astype(np.float64),
        ),
        Ranking(
            "random",
            "in random order, by the seeded tie-break alone",
            lambda num_teacher, num_sentences, length: np.zeros(length.size),
        ),
        Ranking(
            "fewest",
            "fewest teacher sentences",
            lambda num_teacher, num_sentences, length: -num_teacher.astype(np.float64),
        ),
    ],
    get_args(Strategy),
)


def scores(
    strategy: Strategy, num_teacher_sentences: Ints, num_sentences: Ints, num_tokens: Ints
) -> Floats:
    """Score candidates; the highest score comes first.

    Args:
        strategy: a name in :data:`STRATEGIES`.
        num_teacher_sentences: [candidates]
        num_sentences: [candidates]
        num_tokens: [candidates] length of the content in the teacher's tokens.

    Returns:
        [candidates]

    Raises:
        UserError: no strategy has this name.
    """
    return STRATEGIES[strategy].scores(num_teacher_sentences, num_sentences, num_tokens)
