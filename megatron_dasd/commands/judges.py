"""The commands that hand an evaluation's answers to other judges, and compare their marks."""

from pathlib import Path
from typing import Annotated

import typer

from megatron_dasd.command_line import guarded
from megatron_dasd.printing import say

Stage = Annotated[Path, typer.Argument(metavar="STAGE", help="folder of an evaluate stage")]


def export_answers(
    stage: Stage,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder that is written")],
) -> None:
    """Write the answers of an evaluate stage in the layout of sgl-eval."""
    raise typer.Exit(guarded(lambda: _export(stage, out)))


def compare_marks(
    stage: Stage,
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="e.g. aime25")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="its name in the stage's settings")],
    marks: Annotated[
        Path,
        typer.Argument(metavar="MARKS", help="sgl-eval's folder, or lm-eval's file of samples"),
    ],
) -> None:
    """List the answers that another judge marks differently."""
    raise typer.Exit(guarded(lambda: _compare(stage, benchmark, model, marks)))


def _export(stage: Path, out: Path) -> int:
    from megatron_dasd.evaluation import judges
    from megatron_dasd.records import Graded
    from megatron_dasd.records_io import read_records

    for folder in judges.export_answers(read_records(stage, Graded), out):
        say(f"{folder}")
    return 0


def _compare(stage: Path, benchmark: str, model: str, marks: Path) -> int:
    from megatron_dasd.evaluation import judges

    own = judges.own_marks(stage, benchmark, model)
    for line in judges.differences(own, judges.read_marks(marks)):
        say(line)
    return 0
