#!/usr/bin/env python3
"""Measure what must be fast, against a limit or a peer measured in the same run.

Usage: tools/bench.py [--out bench/results.json]

Writes a list of ``{name, unit, own, peer, peer_name, value, bar, holds}``: the raw samples of both
sides, the ratio of their medians, and whether it holds the bar.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.data.packing import best_fit_decreasing
from megatron_dasd.device.launch import launch

NUM_DOCUMENTS = 500_000
SEQ_LENGTH = 65_536
PACKING_LIMIT_SECONDS = 10.0
IMPORTS = "import megatron_dasd.device.preload"
REPETITIONS = 3


def row(
    name: str, unit: str, own: list[float], peer: list[float], peer_name: str, at_most: float
) -> dict[str, Any]:
    """One figure: the ratio of medians, which must be at most ``at_most``."""
    value = statistics.median(own) / statistics.median(peer)
    return {
        "name": name,
        "unit": unit,
        "own": own,
        "peer": peer,
        "peer_name": peer_name,
        "value": value,
        "bar": f"at most {at_most:g} x",
        "holds": value <= at_most,
    }


def seconds(work: Callable[[], object]) -> list[float]:
    """Wall seconds of each of some runs, after one that does not count."""
    work()
    samples = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        work()
        samples.append(time.perf_counter() - started)
    return samples


def figures() -> Iterator[dict[str, Any]]:
    """All figures."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(9.0, 0.8, NUM_DOCUMENTS), 144, SEQ_LENGTH).astype(np.int64)
    yield row(
        "packing half a million documents into rows of 65,536 tokens",
        "s",
        seconds(lambda: best_fit_decreasing(lengths, SEQ_LENGTH)),
        [PACKING_LIMIT_SECONDS],
        "limit",
        1.0,
    )
    yield row(
        "start of a rank that has imported Megatron",
        "s",
        seconds(start_rank),
        seconds(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True)),
        "a fresh interpreter with the same imports",
        0.25,
    )


def start_rank() -> None:
    """Launch one rank that only says what machine it is on."""
    with tempfile.TemporaryDirectory() as folder:
        launch("megatron_dasd.device.environment", {}, 1, Path(folder))


def main() -> int:
    """Measure, print, write; returns 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description="Measure what must be fast.")
    parser.add_argument("--out", type=Path, default=Path("bench/results.json"))
    out = parser.parse_args().out
    rows = []
    for figure in figures():
        print(f"{figure['name']}: {figure['value']:.3f} of {figure['peer_name']} ({figure['bar']})")
        rows.append(figure)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, json.dumps(rows, indent=2).encode())
    return 0 if all(figure["holds"] for figure in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
