"""The commands that run stages: a whole pipeline, or the stages of one kind.

What reads pipeline files and runs stages is imported once the arguments are parsed, so that
``--help`` and a mistyped option answer at once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_dasd.command_line import Chosen, guarded, spread, start, start_function
from megatron_dasd.pipeline.stage_commands import stage_app
from megatron_dasd.printing import say

if TYPE_CHECKING:
    from megatron_dasd.pipeline.runner import Outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a pipeline; returns the exit status."""
    return start_function(run, arguments)


def run_kind(kind: str, arguments: Sequence[str] | None = None) -> int:
    """Run stages of one kind; see :mod:`.stage_commands`.  Returns the exit status."""
    return start(stage_app(kind), arguments)


@spread
def run(
    chosen: Chosen,
    only: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="run this stage (repeatable)")
    ] = None,
    show_graph: Annotated[
        bool,
        typer.Option(
            "--show-graph",
            help="print the pipeline with its recipe expanded, a pipeline file itself; run nothing",
        ),
    ] = False,
) -> None:
    """Run a pipeline: every stage that is not up to date, in order."""
    if show_graph:
        raise typer.Exit(guarded(lambda: _show_graph(chosen)))

    def work() -> None:
        from megatron_dasd.config.pipeline import load_pipeline
        from megatron_dasd.pipeline.changes import announce
        from megatron_dasd.pipeline.runner import choose_stages, run_stages

        loaded = load_pipeline(chosen.pipeline, chosen.run_dir, chosen.overrides)
        stages = choose_stages(loaded, chosen.first, chosen.last, only or ())
        announce(loaded, stages, chosen.yes)
        outcomes = run_stages(loaded, stages)
        if len(outcomes) > 1:
            _print_summary(outcomes)

    raise typer.Exit(guarded(work))


def _show_graph(chosen: Chosen) -> None:
    from megatron_dasd.config.pipeline import graph_text

    text = graph_text(chosen.pipeline, chosen.run_dir, chosen.overrides or ())
    say(text.removesuffix("\n"))


def _print_summary(outcomes: Sequence["Outcome"]) -> None:
    """Print wall times of every stage: of this run, and of the run that finished it."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, title="Time", title_justify="left", show_footer=True)
    table.add_column("stage", footer="total")
    table.add_column("kind")
    this_run = sum(outcome.seconds for outcome in outcomes)
    all_runs = sum(outcome.manifest.seconds for outcome in outcomes)
    table.add_column("this run", justify="right", footer=f"{this_run:.1f} s")
    table.add_column("when made", justify="right", footer=f"{all_runs:.1f} s")
    for outcome in outcomes:
        now = "skipped" if outcome.skipped else f"{outcome.seconds:.1f} s"
        table.add_row(
            outcome.stage, outcome.manifest.kind, now, f"{outcome.manifest.seconds:.1f} s"
        )
    Console().print(table)
