"""One figure: raw samples of both sides, and whether the ratio of their medians meets the bar."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NotRequired, TypedDict, Unpack

REPETITIONS = 3


class Row(TypedDict):
    """A finished figure, as ``bench/results.json`` has it."""

    name: str
    unit: str
    own: list[float]
    peer: list[float]
    peer_name: str
    value: float
    """Median of ``own`` over median of ``peer``."""
    bar: str
    holds: bool


class Figure(TypedDict):
    """The samples of both sides."""

    name: str
    unit: str
    own: Sequence[float]
    peer: Sequence[float]
    peer_name: str
    bar: NotRequired[str]
    """The bar as text; by default "at most ``ratio`` x" or "at least ``ratio`` x"."""


def at_most(ratio: float, **figure: Unpack[Figure]) -> Row:
    """Make a figure whose ``median(own) / median(peer)`` may be at most ``ratio``."""
    return _row(f"at most {ratio:g} x", lambda value: value <= ratio, figure)


def at_least(ratio: float, **figure: Unpack[Figure]) -> Row:
    """Make a figure whose ``median(own) / median(peer)`` must be at least ``ratio``."""
    return _row(f"at least {ratio:g} x", lambda value: value >= ratio, figure)


def seconds(
    work: Callable[[], object],
    repetitions: int = REPETITIONS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Measure the seconds of several runs, after one run for warming up.

    Args:
        clock: wall time by default; ``time.process_time`` for work of this process alone, which
            other work on the machine disturbs less.
    """
    work()
    samples = []
    for _ in range(repetitions):
        started = clock()
        work()
        samples.append(clock() - started)
    return samples


def _row(bar: str, holds: Callable[[float], bool], figure: Figure) -> Row:
    value = statistics.median(figure["own"]) / statistics.median(figure["peer"])
    return {
        "name": figure["name"],
        "unit": figure["unit"],
        "own": list(figure["own"]),
        "peer": list(figure["peer"]),
        "peer_name": figure["peer_name"],
        "value": value,
        "bar": figure.get("bar", bar),
        "holds": holds(value),
    }
