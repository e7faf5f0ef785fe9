#!/usr/bin/env python3
"""What each part of the method does, in miniature: arms over one pool of responses.

Usage: tools/ablation.py run [--arm NAME] [--seed N] [--example DIR] [--runs DIR] [--results DIR]
       tools/ablation.py check --arm NAME --seed N
       tools/ablation.py page [--docs DIR]

Every finished seed of an arm is kept in ``examples/ablation/results``; what is kept is not run
again.  The page is made from what is kept.
"""

import argparse
import sys
from pathlib import Path

from megatron_dasd.last_net import guard
from megatron_dasd.printing import say

EXAMPLE = Path(__file__).parents[1] / "examples" / "ablation"
NUM_SEEDS, NUM_PROBLEMS, NUM_SAMPLES = 8, 1000, 4


def main() -> int:
    """Run arms, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run what is not kept yet")
    run.add_argument("--arm", action="append", help="this arm (repeatable); default: all")
    run.add_argument("--seed", action="append", type=int, help="this seed; default: 1 to 8")
    check = commands.add_parser("check", help="run an arm again and compare it with what is kept")
    check.add_argument("--arm", required=True, help="e.g. low")
    check.add_argument("--seed", required=True, type=int, help="e.g. 3")
    for command in (run, check):
        command.add_argument(
            "--runs", type=Path, default=Path("runs/ablation"), help="where it runs"
        )
    page = commands.add_parser("page", help="write docs/ablation.md from kept results")
    page.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page")
    for command in (run, check, page):
        command.add_argument("--example", type=Path, default=EXAMPLE, help="arms and contrasts")
        command.add_argument("--results", type=Path, help="kept results; default: in the example")
    given = parser.parse_args()
    results = given.results or given.example / "results"

    def work() -> None:
        from ablations import arms  # --help needs none of what these import
        from ablations import page as pages

        if given.command == "page":
            say(f"{pages.write_page(given.example, results, given.docs)}")
            return
        if given.command == "check":
            say(arms.check_arm(given.example, given.runs, results, given.arm, given.seed))
            return
        say(f"{arms.write_plan(results, NUM_SEEDS, NUM_PROBLEMS, NUM_SAMPLES)}")
        names = given.arm or sorted(path.stem for path in (given.example / "arms").glob("*.yaml"))
        seeds = given.seed or range(1, NUM_SEEDS + 1)
        arms.run_all(given.example, given.runs, results, names, list(seeds))

    return guard(work)


if __name__ == "__main__":
    sys.exit(main())
