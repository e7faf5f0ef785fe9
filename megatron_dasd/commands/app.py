"""The command ``dasd``: the commands of all rooms under one name."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from megatron_dasd import __version__
from megatron_dasd.cluster.cli import status, submit
from megatron_dasd.command_line import new_app, start
from megatron_dasd.commands.check import check_model
from megatron_dasd.commands.doctor import doctor
from megatron_dasd.commands.init import init
from megatron_dasd.commands.judges import compare_marks, export_answers
from megatron_dasd.commands.settings import settings
from megatron_dasd.data.inspect_cli import inspect
from megatron_dasd.pipeline.cli import run
from megatron_dasd.pipeline.conversion import export_hf, import_hf, verify_conversion
from megatron_dasd.pipeline.stage_commands import StageGroup
from megatron_dasd.planning.cli import plan
from megatron_dasd.printing import say

NAME = "dasd"
_COMPLETING = "_DASD_COMPLETE"
"""Set by a shell that asks for completions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``dasd``; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return start(_app(given), given, NAME)


def _app(given: Sequence[str]) -> typer.Typer:
    own_options, of_group = _are_options(given), _are_options(given[1:])
    app = new_app(with_completion=own_options)
    app.callback(add_help_option=own_options)(_own_options if own_options else _no_options)
    for function in (init, run, plan, submit, status, inspect, doctor, settings):
        app.command()(function)
    every_flag = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("train", context_settings=every_flag)(_train)
    stages = typer.Typer(cls=StageGroup, no_args_is_help=True, rich_markup_mode=None)
    stages.callback(add_help_option=of_group)(_stage)
    app.add_typer(stages, name="stage")
    convert = new_app()
    convert.callback(add_help_option=of_group)(_convert)
    for name, function in (
        ("import", import_hf),
        ("export", export_hf),
        ("verify", verify_conversion),
        ("check", check_model),
    ):
        convert.command(name)(function)
    app.add_typer(convert, name="convert")
    judges = new_app()
    judges.callback(add_help_option=of_group)(_judges)
    judges.command("export")(export_answers)
    judges.command("compare")(compare_marks)
    app.add_typer(judges, name="judges")
    return app


def _are_options(given: Sequence[str]) -> bool:
    """Whether options of a group of commands may stand here, in place of a command's name.

    Typer loads pydantic to read a group's options, ``--help`` too, even where none is given.  They
    are therefore declared only where they can be given.
    """
    return not given or given[0].startswith("-") or _COMPLETING in os.environ


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"{NAME} {__version__}")
        raise typer.Exit


def _own_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Distil a large reasoning model into a small one, with Megatron-Core as the trainer.

    The method is distribution-aligned sequence distillation (arXiv 2601.09088).
    """


def _no_options() -> None:
    """Stand for the options of dasd where none can be given."""


def _stage() -> None:
    """Run the stages of one kind of a pipeline, or one stage by hand on files and folders."""


def _convert() -> None:
    """Convert checkpoints and Hugging Face folders by hand, or in a pipeline's stages."""


def _judges() -> None:
    """Hand an evaluation's answers to other judges, and compare their marks."""


def _train(context: typer.Context) -> None:
    """Train under torchrun or srun on Megatron's own flags: torchrun --no-python dasd train ..."""
    from megatron_dasd.training.by_hand import main as train

    train(context.args)
