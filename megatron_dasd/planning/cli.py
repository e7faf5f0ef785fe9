"""The command that plans a pipeline before it is run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from megatron_dasd.command_line import Overrides, PipelinePath, RunDir, guarded, start_function


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan a pipeline; returns the exit status."""
    return start_function(plan, arguments)


def plan(
    pipeline: PipelinePath,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also write a page with a chart")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write all figures")
    ] = None,
) -> None:
    """Memory, time, cost and disk of a pipeline, before it is run."""

    def work() -> None:
        from megatron_dasd.artifacts import write_atomic
        from megatron_dasd.config.pipeline import load_pipeline
        from megatron_dasd.planning.report import collect, show, write_page

        figures = collect(load_pipeline(pipeline, run_dir, overrides))
        show(figures)
        if html:
            write_page(figures, html)
        if json_file:
            write_atomic(json_file, json.dumps(figures, indent=2).encode())

    raise typer.Exit(guarded(work))
