#!/usr/bin/env python3
"""Answers of an evaluate stage for other programs to judge, and their marks beside ours.

Usage: tools/judges.py export STAGE OUT
       tools/judges.py compare STAGE BENCHMARK MODEL MARKS
"""

import argparse
import sys
from pathlib import Path

from megatron_dasd.last_net import guard
from megatron_dasd.printing import say


def main() -> int:
    """Export, or compare; docs/evaluate.md shows both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write the answers in sgl-eval's layout")
    compare = commands.add_parser("compare", help="list the answers that are judged differently")
    for command in (export, compare):
        command.add_argument("stage", type=Path, help="folder of an evaluate stage")
    export.add_argument("out", type=Path, help="folder that is written")
    compare.add_argument("benchmark", help="e.g. aime25")
    compare.add_argument("model", help="its name in the stage's settings")
    compare.add_argument("marks", type=Path, help="sgl-eval's folder or lm-eval's samples file")
    given = parser.parse_args()

    def run() -> None:
        from megatron_dasd.evaluation import judges  # --help needs none of what it imports
        from megatron_dasd.records import Graded
        from megatron_dasd.records_io import read_records

        if given.command == "export":
            for folder in judges.export_answers(read_records(given.stage, Graded), given.out):
                say(f"{folder}")
            return
        own = judges.own_marks(given.stage, given.benchmark, given.model)
        for line in judges.differences(own, judges.read_marks(given.marks)):
            say(line)

    return guard(run)


if __name__ == "__main__":
    sys.exit(main())
