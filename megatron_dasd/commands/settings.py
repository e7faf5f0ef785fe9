"""The command that prints the reference of settings, made from their source."""

import textwrap
from typing import Annotated

import typer

from megatron_dasd.command_line import guarded
from megatron_dasd.config.reference import (
    Setting,
    SettingsClass,
    first_sentence,
    settings_classes,
    stage_classes,
)
from megatron_dasd.errors import UserError
from megatron_dasd.printing import say

PARTS = {"pipeline": "PipelineFile", "recipe": "Dasd", "cluster": "Cluster", "plan": "Plan"}
"""Parts of a pipeline file beside its stages, by the settings class of each."""
_WIDTH = 80


def settings(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="a stage kind, or pipeline, recipe, cluster, plan; none: the list of all",
        ),
    ] = None,
) -> None:
    """Print the settings of a stage kind, or of a part of a pipeline file."""

    def work() -> None:
        say(_list() if kind is None else "\n".join(reference_lines(kind)))

    raise typer.Exit(guarded(work))


def reference_lines(kind: str) -> list[str]:
    """The reference of a stage kind or part, blocks of settings within it below.

    Raises:
        UserError: there is no such kind.
    """
    classes = settings_classes()
    top = classes[PARTS[kind]] if kind in PARTS else stage_classes().get(kind)
    if top is None:
        known = ", ".join([*PARTS, *stage_classes()])
        raise UserError(f"no stage kind {kind} (known: {known})")
    lines, waiting, seen = [], [(kind, top)], {top.name}
    while waiting:
        title, one = waiting.pop(0)
        lines += _block(title, one)
        for setting in one.settings:
            inner = classes.get(setting.inner or "")
            if inner is not None and inner.kind is None and inner.name not in {*seen, "Settings"}:
                seen.add(inner.name)
                waiting.append((inner.name, inner))
    return lines


def _list() -> str:
    named = {name: settings_classes()[class_name] for name, class_name in PARTS.items()}
    both = named | stage_classes()
    width = max(map(len, both))
    return "\n".join(
        textwrap.fill(
            f"{name:<{width}}  {first_sentence(one.doc)}",
            _WIDTH,
            subsequent_indent=" " * (width + 2),
        )
        for name, one in both.items()
    )


def _block(title: str, described: SettingsClass) -> list[str]:
    lines = [title, *textwrap.wrap(first_sentence(described.doc) + ".", _WIDTH), ""]
    for setting in described.settings:
        lines.append(f"  {setting.name}")
        lines += textwrap.wrap(
            _facts(setting), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
        lines += textwrap.wrap(
            setting.doc, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return [*lines, ""]


def _facts(setting: Setting) -> str:
    needed = "required" if setting.default is None else f"default: {setting.default}"
    return f"{setting.type}; {needed}"
