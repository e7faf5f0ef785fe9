#!/usr/bin/env python3
"""Say what this machine has, what that switches on, and what adding the rest would bring.

Usage: tools/doctor.py [--json]
       tools/doctor.py --train [FOLDER]

With --train it also trains: a small model and data made from a seed, twenty steps in every
precision that the machine has, on one rank and on all GPUs; killed, resumed, scored, exported; each
result beside the known one.  FOLDER/selftest.json holds all of it, to attach to a report.

Exit status 1 when something is broken (installed but not working, or not what it seems), or when a
check of the self-test fails.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megatron_dasd.device.doctor import Finding, examine
from megatron_dasd.last_net import guard

_STYLES = {
    "on": "green",
    "off": "dim",
    "broken": "bold red",
    "passed": "green",
    "skipped": "dim",
    "failed": "bold red",
}


def main() -> int:
    """Examine and print; returns the exit status."""
    parser = argparse.ArgumentParser(description="Say what this machine has and lacks.")
    parser.add_argument("--json", action="store_true", help="one JSON list, for programs")
    parser.add_argument(
        "--train",
        type=Path,
        nargs="?",
        const=Path("runs/selftest"),
        metavar="FOLDER",
        help="train, score and export a small model too, in a folder (default: runs/selftest)",
    )
    options = parser.parse_args()
    if options.train and options.json:
        parser.error("--json goes without --train, which writes a JSON file of its own")
    if options.train:
        from megatron_dasd.pipeline.cli import guarded

        return guarded(lambda: _self_test(options.train))
    return guard(lambda: _examine(options.json))


def _examine(as_json: bool) -> int:
    findings = examine()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        Console().print(_table(findings))
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def _self_test(folder: Path) -> int:
    from megatron_dasd.selftest.run import REPORT, self_test

    findings = examine()
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
    print(f"{len(failed)} of {len(verdicts)} checks failed; all of it: {folder / REPORT}")
    return 1 if failed or any(finding.state == "broken" for finding in findings) else 0


def _table(findings: list[Finding]) -> Table:
    table = Table(box=SIMPLE)
    for column in ("", "state", "found", "what it means"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        style = _STYLES[finding.state]
        state = f"[{style}]{finding.state}[/]"
        table.add_row(finding.name, state, escape(finding.found), escape(finding.meaning))
    return table


if __name__ == "__main__":
    sys.exit(main())
