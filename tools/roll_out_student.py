#!/usr/bin/env python3
"""Let the trained student answer training prompts."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("roll_out_student"))
