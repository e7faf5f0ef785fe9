#!/usr/bin/env python3
"""Say what this machine has, what that switches on, and what adding the rest would bring.

Usage: tools/doctor.py [--json]

Exit status 1 when something is broken: installed but not working, or not what it seems.
"""

import argparse
import json
import sys
from dataclasses import asdict

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megatron_dasd.device.doctor import Finding, examine
from megatron_dasd.last_net import guard

_STYLES = {"on": "green", "off": "dim", "broken": "bold red"}


def main() -> int:
    """Examine and print; returns the exit status."""
    parser = argparse.ArgumentParser(description="Say what this machine has and lacks.")
    parser.add_argument("--json", action="store_true", help="one JSON list, for programs")
    options = parser.parse_args()
    return guard(lambda: _examine(options.json))


def _examine(as_json: bool) -> int:
    findings = examine()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        Console().print(_table(findings))
    return 1 if any(finding.state == "broken" for finding in findings) else 0


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
