"""One figure: raw samples of both sides, and whether the ratio of their medians holds the bar."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
"""``{name, unit, own, peer, peer_name, value, bar, holds}``."""

REPETITIONS = 3


def at_most(
    ratio: float,
    *,
    name: str,
    unit: str,
    own: Sequence[float],
    peer: Sequence[float],
    peer_name: str,
    bar: str | None = None,
) -> Row:
    """A figure that is good when small: ``median(own) / median(peer)`` may be at most ``ratio``.

    Args:
        bar: how the bar is written; "at most ``ratio`` x" by default.
    """
    value = statistics.median(own) / statistics.median(peer)
    return _row(name, unit, own, peer, peer_name, value, bar or f"at most {ratio:g} x") | {
        "holds": value <= ratio
    }


def at_least(
    ratio: float,
    *,
    name: str,
    unit: str,
    own: Sequence[float],
    peer: Sequence[float],
    peer_name: str,
    bar: str | None = None,
) -> Row:
    """A figure that is good when large: ``median(own) / median(peer)`` must reach ``ratio``.

    Args:
        bar: how the bar is written; "at least ``ratio`` x" by default.
    """
    value = statistics.median(own) / statistics.median(peer)
    return _row(name, unit, own, peer, peer_name, value, bar or f"at least {ratio:g} x") | {
        "holds": value >= ratio
    }


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


def _row(
    name: str,
    unit: str,
    own: Sequence[float],
    peer: Sequence[float],
    peer_name: str,
    value: float,
    bar: str,
) -> Row:
    return {
        "name": name,
        "unit": unit,
        "own": list(own),
        "peer": list(peer),
        "peer_name": peer_name,
        "value": value,
        "bar": bar,
    }
