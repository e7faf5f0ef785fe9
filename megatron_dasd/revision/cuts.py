"""Where a student's response is cut for the teacher to continue it (pure; METHOD: step 3)."""

import math
from collections.abc import Callable, Sequence

import numpy as np


def cut_positions(num_tokens: int, cut_from: float) -> range:
    """Numbers of tokens that may be kept: beyond the share ``cut_from``, and never all of them."""
    return range(math.floor(num_tokens * cut_from) + 1, num_tokens)


def choose_cut(
    text: str,
    num_bytes: Sequence[int],
    cut_from: float,
    seed: int,
    accept: Callable[[str], bool],
) -> int | None:
    """Draw the number of tokens to keep, uniformly; a cut in a character moves back to its start.

    A draw that is not accepted, or moves back out of the positions, is followed by another.

    Args:
        text: what the tokens spell.
        num_bytes: UTF-8 bytes of the text that each token adds.
        cut_from: earliest cut, as a share of the tokens.
        accept: whether a text cut like this can be continued; asked only at character borders.

    Returns:
        None when no position will do.
    """
    data = text.encode()
    ends = np.cumsum(num_bytes)
    positions = cut_positions(len(num_bytes), cut_from)
    for kept in np.random.default_rng(seed).permutation(np.array(positions)).tolist():
        while kept in positions and not is_border(data, ends[kept - 1]):
            kept -= 1
        if kept in positions and accept(data[: ends[kept - 1]].decode()):
            return int(kept)
    return None


def is_border(data: bytes, at: int) -> bool:
    """Whether a place in UTF-8 text lies between two characters: what follows begins one."""
    return at == len(data) or data[at] & 0b1100_0000 != 0b1000_0000
