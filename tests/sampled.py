"""Large matrices of cases: CI runs a sample that a seed chooses, `make test-all` runs them all."""

import random
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet

SEED = 7


def left_out(*values: Any) -> ParameterSet:
    """A parameter that CI leaves out."""
    return pytest.param(*values, marks=pytest.mark.exhaustive)


def sampled[T: tuple[Any, ...]](
    cases: Sequence[T], size: int, always: Collection[T] = ()
) -> list[ParameterSet]:
    """Parameters for ``pytest.mark.parametrize``; those that CI leaves out are marked exhaustive.

    Args:
        cases: the whole matrix.
        size: how many of them CI runs, ``always`` included.
        always: cases that CI runs in any case.
    """
    others = [case for case in cases if case not in always]
    chosen = {*always, *random.Random(SEED).sample(others, size - len(always))}
    return [pytest.param(*case) if case in chosen else left_out(*case) for case in cases]
