#!/usr/bin/env python3
"""Measure what must be fast, against a limit or a peer measured in the same run.

Usage: tools/bench.py [--only ROOM] [--out bench/results.json]

Writes a list of ``{name, unit, own, peer, peer_name, value, bar, holds}``: the raw samples of both
sides, the ratio of their medians, and whether it holds the bar.  ``index.html`` beside it shows
them, and ``history`` keeps them by CPU model and commit; what has changed by more than its noise is
said.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.last_net import guard
from megatron_dasd.printing import say

if TYPE_CHECKING:
    from benchmarks.figures import Row

ROOMS = (
    "checkpoint",
    "commands",
    "data",
    "device",
    "distillation",
    "divergence",
    "evaluation",
    "filters",
    "linear_attention",
    "losses",
    "many_cores",
    "on_policy",
    "planning",
    "teacher",
    "top_tokens",
    "training",
)
"""Modules of ``tools/benchmarks``."""


def main() -> int:
    """Measure, print, write; returns 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description="Measure what must be fast.")
    parser.add_argument("--only", action="append", choices=ROOMS, help="this room (repeatable)")
    parser.add_argument("--out", type=Path, default=Path("bench/results.json"))
    options = parser.parse_args()
    return guard(lambda: _measure(options.only or ROOMS, options.out))


def _measure(rooms: Sequence[str], out: Path) -> int:
    from benchmarks import history, page

    from megatron_dasd.artifacts import write_atomic  # imports pyarrow

    results: list[Row] = []
    for room in rooms:
        for row in import_module(f"benchmarks.{room}").rows():
            say(f"{row['name']}: {row['value']:.3f} of {row['peer_name']} ({row['bar']})")
            results.append(row)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, json.dumps(results, indent=2).encode())
    kept = history.keep(results, out.parent / "history")
    known = history.read(out.parent / "history", history.cpu_model())
    earlier = [one for one in known if kept is None or one["commit"] != kept["commit"]]
    found = history.changes(results, earlier)
    for change in found:
        say(f"changed: {change.line}")
    if kept is None:
        say("files differ from the commit: these results are not kept in the history")
    machine = f"{history.cpu_model()}, {len(os.sched_getaffinity(0))} cores"
    page.write_page(
        out.parent / "index.html", results, found, history.histories(results, known), machine
    )
    return 0 if all(row["holds"] for row in results) else 1


if __name__ == "__main__":
    sys.exit(main())
