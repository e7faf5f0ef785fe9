"""The command that shows packed data, or checks it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from megatron_dasd.command_line import guarded, start_function


def main(arguments: Sequence[str] | None = None) -> int:
    """Show a packed row or check a data set.

    Returns the exit status: 1 if the check finds a fault, 2 for a mistake of the user's.
    """
    return start_function(inspect, arguments)


def inspect(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="a preprocessing stage's folder")
    ],
    row: Annotated[int, typer.Option(metavar="N", help="row to show")] = 0,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Hugging Face folder of the tokenizer, or its stage's folder"
        ),
    ] = None,
    check_all: Annotated[
        bool, typer.Option("--check", help="check the whole data set; prints one line a fault")
    ] = False,
) -> None:
    """Show a row of packed data decoded, or check a whole data set."""

    def work() -> int:
        from megatron_dasd.progress import at_work

        with at_work("importing torch and transformers", sys.stderr):
            from megatron_dasd.data.inspect import check, show_row

        if check_all:
            return int(check(folder))
        show_row(folder, row, model)
        return 0

    raise typer.Exit(guarded(work))
