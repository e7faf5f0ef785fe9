#!/usr/bin/env python3
"""Write worked solutions of column addition: what a small model is trained on first."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("worked_sums"))
