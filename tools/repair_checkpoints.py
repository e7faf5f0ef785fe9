#!/usr/bin/env python3
"""Make a folder of Megatron checkpoints name its newest complete one; damaged ones are set aside.

Usage: tools/repair_checkpoints.py SAVES

For training that is started by hand; a stage of a pipeline does this by itself.  No training may
write to the folder meanwhile.
"""

import argparse
import sys
from pathlib import Path

from megatron_dasd.errors import UserError
from megatron_dasd.last_net import guard
from megatron_dasd.printing import say


def main() -> int:
    """Repair, and print which iteration is next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("saves", metavar="SAVES", type=Path, help="the folder of --save and --load")
    saves = parser.parse_args().saves

    def run() -> None:
        from megatron_dasd.checkpoint import tracker  # imports torch, which --help does not need

        if not saves.is_dir():
            raise UserError(f"{saves}: no such folder")
        iteration = tracker.repair(saves)
        say(f"{saves}: training resumes with iteration {iteration + 1}")

    return guard(run)


if __name__ == "__main__":
    sys.exit(main())
