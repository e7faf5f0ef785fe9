"""How a typed function becomes a command: its flags by typer, its end by the last net.

A command's function takes its flags as arguments and ends in ``raise typer.Exit(status)``.  What
does the work is imported in the function, so that ``--help`` and a mistyped flag answer at once.
"""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

from megatron_dasd.device.launch import STOP_SIGNALS
from megatron_dasd.errors import Stopped
from megatron_dasd.last_net import guard

PipelinePath = Annotated[
    Path, typer.Argument(metavar="PIPELINE.yaml", help="the pipeline file (docs/recipes.md)")
]
MaybePipelinePath = Annotated[
    Path | None,
    typer.Argument(metavar="PIPELINE.yaml", help="the pipeline file", show_default=False),
]
RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", metavar="DIR", help="in place of the pipeline file's run_dir"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STAGE.SETTING=VALUE",
        help="change a setting, with recipe.FIELD=VALUE a field of the recipe, with seed=VALUE "
        "the seed (repeatable)",
    ),
]
First = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="start with this stage")]
Last = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="end with this stage")]
StageName = Annotated[
    str | None, typer.Option("--stage", metavar="NAME", help="only this stage of the file")
]

Yes = Annotated[bool, typer.Option("--yes", help="make changed stages again without asking")]


@dataclass(frozen=True)
class Chosen:
    """The flags that choose a pipeline and some of its stages; see :func:`spread`."""

    pipeline: PipelinePath
    run_dir: RunDir = None
    overrides: Overrides = None
    first: First = None
    last: Last = None
    yes: Yes = False


@dataclass(frozen=True)
class FileOptions:
    """The flags that go with a pipeline file whose stages of one kind are run; see :func:`spread`.

    Without a file, the stage is run by hand.
    """

    pipeline: MaybePipelinePath = None
    run_dir: RunDir = None
    overrides: Overrides = None
    stage: StageName = None
    yes: Yes = False


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose first argument is a dataclass of flags.

    The command's flags are the fields of that class, then the function's other arguments.
    """
    types = get_type_hints(function, include_extras=True)
    first, *own = signature(function).parameters.values()
    flags_class = types[first.name]
    types |= get_type_hints(flags_class, include_extras=True)
    of_class = signature(flags_class).parameters

    def command(**values: object) -> None:
        function(flags_class(**{name: values.pop(name) for name in of_class}), **values)

    flags = [
        one.replace(kind=Parameter.KEYWORD_ONLY, annotation=types[one.name])
        for one in (*of_class.values(), *own)
    ]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = Signature(flags)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in flags}
    return command


def new_app(with_completion: bool = False) -> typer.Typer:
    """A program of commands, whose help is plain text.

    Args:
        with_completion: whether it has ``--install-completion`` and ``--show-completion``.
    """
    return typer.Typer(
        add_completion=with_completion,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def start(app: typer.Typer, arguments: Sequence[str] | None, name: str | None = None) -> int:
    """Run a program; a mistake in its flags prints the usage.

    Args:
        arguments: None: those of this process.
        name: as the usage shows it; None: that of this process's script.

    Returns:
        The exit status.
    """
    given = None if arguments is None else list(arguments)
    try:
        app(args=given, prog_name=name)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def start_function(
    function: Callable[..., None], arguments: Sequence[str] | None, name: str | None = None
) -> int:
    """Run one function as a program of its own; see :func:`start`."""
    app = new_app()
    app.command()(function)
    return start(app, arguments, name)


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
