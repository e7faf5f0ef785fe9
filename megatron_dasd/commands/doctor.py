"""The command that says what a machine has and lacks, and can train on it to see that it works."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from megatron_dasd.command_line import guarded, start_function
from megatron_dasd.printing import say, shown

if TYPE_CHECKING:
    from rich.table import Table

    from megatron_dasd.device.doctor import Finding

_STYLES = {
    "on": "green",
    "off": "dim",
    "broken": "bold red",
    "passed": "green",
    "skipped": "dim",
    "failed": "bold red",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine this machine; returns the exit status, 1 where something is broken or fails."""
    return start_function(doctor, arguments)


def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="with --train: where its work goes")
    ] = Path("runs/selftest"),
    as_json: Annotated[bool, typer.Option("--json", help="one JSON list, for programs")] = False,
    train: Annotated[
        bool, typer.Option("--train", help="train, score and export a small model too")
    ] = False,
) -> None:
    """Say what this machine has, what that switches on, and what adding the rest would bring.

    With --train it also trains: a small model and data made from a seed, twenty steps in every
    precision that the machine has, on one rank and on all GPUs; killed, resumed, scored, exported;
    each result beside the known one.  FOLDER/selftest.json holds all of it, to attach to a report.

    The exit status is 1 where something is broken (installed but not working, or not what it
    seems), or where a check of the self-test fails.
    """
    if train and as_json:
        raise typer.BadParameter("--json goes without --train, which writes a JSON file of its own")
    raise typer.Exit(guarded(lambda: _self_test(folder) if train else _examine(as_json)))


def _examine(as_json: bool) -> int:
    findings = _findings(sys.stderr)
    if as_json:
        say(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        from rich.console import Console

        Console().print(_table(findings))
    return _is_broken(findings)


def _findings(stream: TextIO) -> "list[Finding]":
    """What the machine has, and which attention kernel the shipped recipes get on it."""
    from megatron_dasd.device.doctor import examine
    from megatron_dasd.planning import attention
    from megatron_dasd.progress import at_work

    with at_work("importing what is installed, each package by itself", stream):
        found = examine()
    has_gpu = any(finding.name == "GPU" and finding.state == "on" for finding in found)
    return [*found, *attention.findings(has_gpu)]


def _self_test(folder: Path) -> int:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from megatron_dasd.selftest.run import REPORT, self_test

    findings = _findings(sys.stdout)
    verdicts = self_test(folder, findings)
    Console().print(_table(findings))
    table = Table(box=SIMPLE)
    for column in ("check", "verdict", "found"):
        table.add_column(column, overflow="fold")
    for verdict in verdicts:
        style = _STYLES[verdict.state]
        table.add_row(verdict.check, f"[{style}]{verdict.state}[/]", escape(verdict.found))
    Console().print(table)
    failed = [verdict.check for verdict in verdicts if verdict.state == "failed"]
    say(f"{len(failed)} of {len(verdicts)} checks failed; all of it: {folder / REPORT}")
    return 1 if failed else _is_broken(findings)


def _is_broken(findings: "Sequence[Finding]") -> int:
    return int(any(finding.state == "broken" for finding in findings))


def _table(findings: "Sequence[Finding]") -> "Table":
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE)
    for column in ("", "state", "found", "what it means"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        style = _STYLES[finding.state]
        state = f"[{style}]{finding.state}[/]"
        cells = (escape(shown(text)) for text in (finding.found, finding.meaning))
        table.add_row(finding.name, state, *cells)
    return table
