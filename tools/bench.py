#!/usr/bin/env python3
"""Measure what must be fast, against a limit or a peer measured in the same run.

Usage: tools/bench.py [--only ROOM] [--out bench/results.json]

Writes a list of ``{name, unit, own, peer, peer_name, value, bar, holds}``: the raw samples of both
sides, the ratio of their medians, and whether it holds the bar.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.figures import Row

ROOMS = (
    "checkpoint",
    "commands",
    "data",
    "device",
    "divergence",
    "evaluation",
    "filters",
    "losses",
    "on_policy",
    "teacher",
    "training",
)
"""Modules of ``tools/benchmarks``."""


def main() -> int:
    """Measure, print, write; returns 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description="Measure what must be fast.")
    parser.add_argument("--only", action="append", choices=ROOMS, help="this room (repeatable)")
    parser.add_argument("--out", type=Path, default=Path("bench/results.json"))
    options = parser.parse_args()
    from megatron_dasd.artifacts import write_atomic  # imports pyarrow

    results: list[Row] = []
    for room in options.only or ROOMS:
        for row in import_module(f"benchmarks.{room}").rows():
            print(f"{row['name']}: {row['value']:.3f} of {row['peer_name']} ({row['bar']})")
            results.append(row)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, json.dumps(results, indent=2).encode())
    return 0 if all(row["holds"] for row in results) else 1


if __name__ == "__main__":
    sys.exit(main())
