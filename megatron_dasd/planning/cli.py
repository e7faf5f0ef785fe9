"""The command line of ``tools/plan.py``."""

import json
from collections.abc import Sequence
from pathlib import Path

from megatron_dasd.pipeline.cli import guarded, load, pipeline_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan a pipeline; returns the exit status."""
    parser = pipeline_parser("Memory, time, cost and disk of a pipeline, before it is run.")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a chart")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures")
    options = parser.parse_args(arguments)

    def run() -> None:
        from megatron_dasd.artifacts import write_atomic
        from megatron_dasd.planning.report import collect, show, write_page

        figures = collect(load(options))
        show(figures)
        if options.html:
            write_page(figures, options.html)
        if options.json:
            write_atomic(options.json, json.dumps(figures, indent=2).encode())

    return guarded(run)
