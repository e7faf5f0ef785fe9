"""What a run will make again because settings or inputs of earlier results have changed."""

import json
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import typer

from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import ATTEMPT, read_manifest
from megatron_dasd.pipeline.runner import stages_to_run
from megatron_dasd.printing import say
from megatron_dasd.progress import at_work
from megatron_dasd.replaced import replaced_folder


@dataclass(frozen=True)
class Changes:
    """Results of earlier runs that no longer are what the pipeline asks for."""

    settings: dict[str, list[str]]
    """By stage, the settings that differ from those of its result, finished or not."""
    inputs: list[str]
    """Finished stages with the same settings that read other files or folders than they did."""
    dependent: list[str]
    """Other finished stages that depend on those: each is made again if its inputs turn out
    different."""
    unfinished: list[str]
    """Stages with changed settings whose work so far is deleted."""
    kept: dict[str, int]
    """Bytes of each finished result that may be replaced, by stage."""

    def lines(self, run_dir: Path) -> list[str]:
        """What a user reads before anything runs; empty: every result stays."""
        if not self.settings and not self.inputs:
            return []
        found = [f"{stage}: {', '.join(names)} changed" for stage, names in self.settings.items()]
        found += [f"{stage}: its inputs changed" for stage in self.inputs]
        again = [name for name in [*self.settings, *self.inputs] if name not in self.unfinished]
        if again:
            found.append(f"will be made again: {', '.join(again)}")
        if self.dependent:
            found.append(f"and where their inputs change: {', '.join(self.dependent)}")
        if self.unfinished:
            found.append(f"unfinished work that will be deleted: {', '.join(self.unfinished)}")
        if self.kept:
            size, free = _size(sum(self.kept.values())), _size(shutil.disk_usage(run_dir).free)
            first = replaced_folder(run_dir / next(iter(self.kept))).name
            found.append(
                f"old results ({size}) stay beside the new ones, e.g. as {run_dir / first}, until "
                f"those are whole; {free} free"
            )
        return found


def changes(pipeline: Pipeline, stages: Collection[str]) -> Changes:
    """Compare the results of some stages with what the pipeline asks for."""
    settings: dict[str, list[str]] = {}
    inputs, dependent, unfinished = [], [], []
    kept: dict[str, int] = {}
    left = stages_to_run(pipeline, stages)
    affected: set[str] = set()
    for stage in left:
        folder, now = pipeline.stage_dir(stage), pipeline.stages[stage].identity()
        manifest = read_manifest(folder)
        then = _attempted(folder) if manifest is None else manifest.settings
        names = [] if then is None else [n for n in {**then, **now} if now.get(n) != then.get(n)]
        describes = pipeline.stages[stage].stage.describes_run
        above = affected & {*pipeline.ancestors(stage)}
        if names:
            settings[stage] = names
            if manifest is None:
                unfinished.append(stage)
        elif manifest is None or (describes and not above):
            continue  # it has no result, or describes whatever is there
        elif above:
            dependent.append(stage)
        elif {*pipeline.upstream(stage)} & {*left}:
            continue  # what it reads is made for the first time, or again as it was
        else:
            inputs.append(stage)
        affected.add(stage)
        if manifest is not None:
            kept[stage] = sum(facts["bytes"] for facts in manifest.files.values())
    return Changes(settings, inputs, dependent, unfinished, kept)


def announce(pipeline: Pipeline, stages: Collection[str], yes: bool) -> None:
    """Say which results will be made again; on a terminal, ask first.

    Args:
        pipeline: the pipeline.
        stages: those that are about to run.
        yes: whether not to ask.

    Raises:
        UserError: the user says no.
    """
    with at_work("comparing the inputs with those of earlier results"):
        lines = changes(pipeline, stages).lines(pipeline.run_dir)
    for line in lines:
        say(line)
    asks = lines and not yes and sys.stdin.isatty() and sys.stdout.isatty()
    if asks and not typer.confirm("Go on?", default=False):
        raise UserError("nothing was run; another --run-dir keeps both results")


def _attempted(folder: Path) -> dict[str, object] | None:
    """The settings of an unfinished attempt; None: there is none, or it is damaged."""
    try:
        settings = json.loads((folder / ATTEMPT).read_text())["settings"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def _size(number: int) -> str:
    """Bytes for a reader, e.g. ``1.2 GB``."""
    value = float(number)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB" if value < 1000 else f"{value:,.0f} GB"
