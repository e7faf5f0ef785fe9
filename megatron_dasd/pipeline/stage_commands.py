"""The command of each stage kind: stages of a pipeline file, or one by hand, without a file.

The flags are made from the source of the stage's settings class (``config.reference``); nothing of
it is imported for ``--help``.  Nested settings are flags with dots, e.g. ``--engine.batch-size``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer
from typer.core import TyperGroup

from megatron_dasd.command_line import FileOptions, guarded, new_app
from megatron_dasd.config.reference import (
    Setting,
    SettingsClass,
    first_sentence,
    settings_classes,
    stage_classes,
)
from megatron_dasd.errors import UserError
from megatron_dasd.pipeline.conversion import CONVERSIONS
from megatron_dasd.pipeline.of_kind import run_stages_of, stages_of

if TYPE_CHECKING:
    from typer._click.core import Command, Context
    from typer._click.formatting import HelpFormatter

_METAVARS = {"integer": "N", "number": "X", "text": "TEXT", "stage": "PATH"}
"""By the first word of a setting's type."""
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="by hand: the stage's new folder")
]


_PREVIEWED = "preprocess_data"
"""The kind whose records can be previewed."""
Preview = Annotated[
    int | None,
    typer.Option(
        "--preview",
        min=1,
        metavar="N",
        help="print prompt, target and mask of the first N records; write nothing",
    ),
]


@dataclass(frozen=True)
class Flag:
    """The flag of a setting, or of one within a nested block."""

    path: tuple[str, ...]
    """Names from the stage's settings down to this one."""
    setting: Setting

    @property
    def key(self) -> str:
        """The argument's name in the command's function."""
        return "setting__" + "__".join(self.path)

    @property
    def text(self) -> str:
        """The flag as the user writes it."""
        return flag_text(self.path)

    @property
    def parameter(self) -> Parameter:
        """The argument of the command's function, with the flag in its annotation."""
        setting, names = self.setting, [self.text]
        value_type: object = str | None
        if setting.shape != "one":
            value_type = list[str] | None
        elif setting.type == "true or false":
            value_type = bool | None
            *outer, last = self.path
            names = [f"{self.text}/{flag_text((*outer, f'no-{last}'))}"]
        is_switch = setting.type == "true or false"
        metavar = None if is_switch else _metavar(setting)
        option = typer.Option(*names, metavar=metavar, help=_help(setting), show_default=False)
        annotation = Annotated[value_type, option]  # type: ignore[valid-type]
        return Parameter(self.key, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def flag_text(path: tuple[str | int, ...]) -> str:
    """The flag of the setting at a path of names, e.g. ``--engine.batch-size``."""
    return "--" + ".".join(map(str, path)).replace("_", "-")


def flags(described: SettingsClass, above: tuple[str, ...] = ()) -> Iterator[Flag]:
    """The flags of a settings class: one for each setting, nested blocks setting by setting."""
    for setting in described.settings:
        path = (*above, setting.name)
        inner = settings_classes().get(setting.inner or "")
        if setting.shape == "one" and inner is not None and setting.inner != "OnPolicy":
            yield from flags(inner, path)
        else:
            yield Flag(path, setting)


def stage_app(kind: str) -> typer.Typer:
    """The program of a stage kind."""
    app = new_app()
    app.command(kind)(CONVERSIONS.get(kind) or _stage_function(kind))
    return app


class StageGroup(TyperGroup):
    """The commands of all stage kinds, each made when it is asked for."""

    def list_commands(self, ctx: "Context") -> list[str]:
        """The stage kinds, sorted."""
        return list(stage_classes())

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """List the kinds without making their commands, which would take too long."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(kind, first_sentence(one.doc)) for kind, one in stage_classes().items()]
            )

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":
        """The command of a kind; None: there is no such kind."""
        return typer.main.get_command(stage_app(cmd_name)) if cmd_name in stage_classes() else None


def _stage_function(kind: str) -> Callable[..., None]:
    """The function that typer makes the command of."""
    described = stage_classes()[kind]
    all_flags = list(flags(described))

    def command(**values: object) -> None:
        given = {flag: value for flag in all_flags if (value := values[flag.key]) is not None}
        file, out = values["pipeline"], values["out"]
        options = FileOptions(*(values[name] for name in _FILE_OPTIONS))  # type: ignore[arg-type]
        by_hand = next((flag.text for flag in given), "--out" if out else None)
        if file and by_hand:
            raise typer.BadParameter(f"a pipeline file or {by_hand}, not both")

        preview = values.get("preview")

        def work() -> None:
            if isinstance(preview, int):
                _preview(kind, options, nested(given), out, preview)
            elif file:
                run_stages_of(kind, options)
            else:
                _run_by_hand(kind, nested(given), out, options.yes)

        raise typer.Exit(guarded(work))

    fixed = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=annotation)
        for name, annotation in (*_FILE_OPTIONS.items(), ("out", Out), *_own_options(kind))
    ]
    parameters = [*fixed, *(flag.parameter for flag in all_flags)]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = (
        f"{first_sentence(described.doc)}.\n\n"
        f"Give --out and the stage's settings, or a pipeline file, whose {kind} stages are run."
    )
    return command


def _run_by_hand(kind: str, given: Mapping[str, object], out: object, yes: bool) -> None:
    from megatron_dasd.pipeline.alone import pipeline_of_one  # pydantic: no --help needs it
    from megatron_dasd.pipeline.changes import announce
    from megatron_dasd.pipeline.runner import run_stages

    if not isinstance(out, Path):
        raise UserError("--out is missing (or give a pipeline file)")
    pipeline = pipeline_of_one(kind, given, out, flag_text)
    announce(pipeline, pipeline.stages, yes)
    run_stages(pipeline, pipeline.stages)


def _own_options(kind: str) -> list[tuple[str, object]]:
    """Arguments that are no settings and that this kind alone has."""
    return [("preview", Preview)] if kind == _PREVIEWED else []


def _preview(
    kind: str, options: FileOptions, given: Mapping[str, object], out: object, number: int
) -> None:
    """Print previews of a pipeline file's stages, or of the one that the flags describe."""
    from megatron_dasd.pipeline.alone import pipeline_of_one
    from megatron_dasd.pipeline.previews import print_previews

    if options.pipeline:
        print_previews(*stages_of(kind, options), number)
        return
    folder = out if isinstance(out, Path) else Path("preview")  # nothing is written
    pipeline = pipeline_of_one(kind, given, folder, flag_text)
    print_previews(pipeline, pipeline.stages, number)


_DEFAULTS = {one.name: one.default for one in fields(FileOptions)}
_FILE_OPTIONS = get_type_hints(FileOptions, include_extras=True)


def _metavar(setting: Setting) -> str:
    if setting.shape == "mapping":
        return "NAME=VALUE"
    first_word = setting.type.removeprefix("list of ").split()[0]
    return _METAVARS.get(first_word, "VALUE")


def _help(setting: Setting) -> str:
    type_words = setting.type
    if setting.shape == "list":
        type_words += " (repeatable)"
    needed = "required" if setting.default is None else f"default: {setting.default}"
    doc = setting.doc if setting.doc.endswith((".", "")) else f"{setting.doc}."
    return f"{doc} [{type_words}; {needed}]".strip().replace("settings ", "mapping ")


def nested(given: Mapping[Flag, object]) -> dict[str, object]:
    """The values of flags as a stage's settings in a pipeline file.

    Raises:
        UserError: a value that is to be a mapping or a list of mappings is not YAML.
    """
    result: dict[str, object] = {}
    for flag, value in given.items():
        *outer, last = flag.path
        place = result
        for name in outer:
            below = place.setdefault(name, {})
            assert isinstance(below, dict)
            place = below
        place[last] = _value(flag, value)
    return result


def _value(flag: Flag, value: object) -> object:
    setting = flag.setting
    if isinstance(value, list) and setting.shape == "mapping":
        return dict(_entry(flag, one) for one in value)
    if isinstance(value, list):
        return [_yaml(flag, one) for one in value] if setting.inner else value
    return _yaml(flag, value) if setting.inner else value


def _entry(flag: Flag, text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{flag.text} {text}: expected NAME=VALUE")
    return name, _yaml(flag, value)


def _yaml(flag: Flag, text: object) -> object:
    from megatron_dasd.config.yaml_files import parse_yaml

    try:
        return parse_yaml(str(text))
    except ValueError as error:
        raise UserError(f"{flag.text} {text}: {error}") from None
