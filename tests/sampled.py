"""Large matrices of cases: CI runs a sample that a seed chooses, `make test-all` runs them all."""

import random
from collections.abc import Collection, Sequence
from typing import Any

import pytest

SEED = 7


def sampled[T: tuple[Any, ...]](cases: Sequence[T], size: int, always: Collection[T] = ()) -> list:
    """Parameters for ``pytest.mark.parametrize``; those that CI leaves out are marked exhaustive.

    Args:
        cases: the whole matrix.
        size: how many of them CI runs, ``always`` included.
        always: cases that CI runs in any case.
    """
    others = [case for case in cases if case not in always]
    chosen = {*always, *random.Random(SEED).sample(others, size - len(always))}
    return [
        pytest.param(*case, marks=[] if case in chosen else pytest.mark.exhaustive)
        for case in cases
    ]
