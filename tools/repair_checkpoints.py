#!/usr/bin/env python3
"""Make a folder of Megatron checkpoints name its newest complete one; damaged ones are set aside.

Usage: tools/repair_checkpoints.py SAVES

For training that is started by hand; a stage of a pipeline does this by itself.  No training may
write to the folder meanwhile.
"""

import argparse
import sys
from pathlib import Path

from megatron_dasd.errors import MISTAKE_STATUS


def main() -> int:
    """Repair, and print which iteration is next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("saves", metavar="SAVES", type=Path, help="the folder of --save and --load")
    saves = parser.parse_args().saves
    from megatron_dasd.checkpoint import tracker  # imports torch, which --help does not need

    if not saves.is_dir():
        print(f"error: {saves}: no such folder", file=sys.stderr)
        return MISTAKE_STATUS
    iteration = tracker.repair(saves)
    print(f"{saves}: training resumes with iteration {iteration + 1}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
