"""The command line: a whole pipeline, some of its stages, or the stages of one kind.

What reads pipeline files and runs stages is imported once the arguments are parsed, so that
``--help`` and a mistyped option answer at once.
"""

import argparse
import logging
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.device.launch import STOP_SIGNALS
from megatron_dasd.errors import Stopped, UserError
from megatron_dasd.last_net import guard
from megatron_dasd.pipeline.conversion import BY_HAND, ByHand

if TYPE_CHECKING:
    from megatron_dasd.config.pipeline import Pipeline
    from megatron_dasd.pipeline.runner import Outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a pipeline; returns the exit status."""
    parser = pipeline_parser("Run a pipeline: every stage that is not up to date, in order.")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="start with this stage")
    parser.add_argument("--until", dest="last", metavar="STAGE", help="end with this stage")
    parser.add_argument(
        "--only", action="append", default=[], metavar="STAGE", help="run this stage (repeatable)"
    )
    parser.add_argument(
        "--show-graph",
        action="store_true",
        help="print the pipeline with its recipe expanded, a pipeline file itself; run nothing",
    )
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.show_graph:
            from megatron_dasd.config.pipeline import graph_text

            print(graph_text(options.pipeline, options.run_dir, options.overrides), end="")
            return
        from megatron_dasd.pipeline.runner import choose_stages, run_stages

        pipeline = load(options)
        stages = choose_stages(pipeline, options.first, options.last, options.only)
        outcomes = run_stages(pipeline, stages)
        if len(outcomes) > 1:
            _print_summary(outcomes)

    return guarded(run)


def run_kind(kind: str, arguments: Sequence[str] | None = None) -> int:
    """Run a pipeline's stages of one kind, or one of them by name; returns the exit status."""
    by_hand = BY_HAND.get(kind)
    parser = pipeline_parser(
        f"Run the {kind} stages of a pipeline whose inputs have finished.", by_hand
    )
    parser.add_argument("--stage", metavar="NAME", help="only this one")
    if by_hand:
        by_hand.add_arguments(parser.add_argument_group("by hand, without a pipeline file"))
    options = parser.parse_args(arguments)
    if by_hand and options.pipeline and (name := by_hand.given(options)):
        parser.error(f"a pipeline file or --{name}, not both")

    def run() -> None:
        if by_hand and options.pipeline is None:
            by_hand.run(options)
            return
        from megatron_dasd.pipeline.runner import run_stages

        pipeline = load(options)
        run_stages(pipeline, _stages_of_kind(pipeline, kind, options.stage))

    return guarded(run)


def pipeline_parser(description: str, by_hand: ByHand | None = None) -> argparse.ArgumentParser:
    """The parser of every command that takes a pipeline file."""
    usage = None
    if by_hand:
        usage = f"%(prog)s PIPELINE.yaml [--stage NAME] ...\n       %(prog)s {by_hand.usage} ..."
    parser = argparse.ArgumentParser(description=description, usage=usage)
    parser.add_argument(
        "pipeline", type=Path, metavar="PIPELINE.yaml", nargs="?" if by_hand else None
    )
    parser.add_argument("--run-dir", type=Path, help="in place of the pipeline file's run_dir")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="STAGE.SETTING=VALUE",
        help="change a setting, or with recipe.FIELD=VALUE a field of the recipe (repeatable)",
    )
    return parser


def load(options: argparse.Namespace) -> "Pipeline":
    """The pipeline that the options name; raises as ``load_pipeline`` does."""
    from megatron_dasd.config.pipeline import load_pipeline

    return load_pipeline(options.pipeline, options.run_dir, options.overrides)


def _stages_of_kind(pipeline: "Pipeline", kind: str, name: str | None) -> list[str]:
    stages = [stage for stage, settings in pipeline.stages.items() if settings.kind == kind]
    if not stages:
        raise UserError(f"{pipeline.path}: has no stage of kind {kind}")
    if name is not None and name not in stages:
        raise UserError(f"{pipeline.path}: no {kind} stage {name} (there are: {', '.join(stages)})")
    return stages if name is None else [name]


def guarded(run: Callable[[], int | None]) -> int:
    """Run as a command that can be stopped; see :func:`last_net.guard`.

    Returns the exit status.
    """
    _quieten_libraries()
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)
    return guard(run)


def _stop(number: int, _: object) -> None:
    raise Stopped(f"stopped on {signal.Signals(number).name}")


def _quieten_libraries() -> None:
    """Set what libraries read at import, before any stage imports them."""
    # Models are local folders: a library that looks for one on a hub should fail at once.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait slow one another down many times over on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A stage reports a package that it needs and that is missing; no warning is needed.
    warnings.filterwarnings("ignore", category=UserWarning, module="megatron")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


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
