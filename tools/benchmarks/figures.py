"""One figure: raw samples of both sides, and whether the ratio of their medians holds the bar."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NotRequired, TypedDict, Unpack

Row = dict[str, Any]
"""``{name, unit, own, peer, peer_name, value, bar, holds}``."""

REPETITIONS = 3


class Figure(TypedDict):
    """What is measured."""

    name: str
    unit: str
    own: Sequence[float]
    peer: Sequence[float]
    peer_name: str
    bar: NotRequired[str]
    """How the bar is written; "at most ``ratio`` x" or "at least ``ratio`` x" by default."""


def at_most(ratio: float, **figure: Unpack[Figure]) -> Row:
    """A figure that is good when small: ``median(own) / median(peer)`` may be at most ``ratio``."""
    return _row(f"at most {ratio:g} x", lambda value: value <= ratio, figure)


def at_least(ratio: float, **figure: Unpack[Figure]) -> Row:
    """A figure that is good when large: ``median(own) / median(peer)`` must reach ``ratio``."""
    return _row(f"at least {ratio:g} x", lambda value: value >= ratio, figure)


def seconds(
    work: Callable[[], object],
    repetitions: int = REPETITIONS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of each of some runs, after one that does not count.

    Args:
        clock: wall time; ``time.process_time`` for work of this process alone, which other work on
            the machine then disturbs less.
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
