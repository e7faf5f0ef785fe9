#!/usr/bin/env python3
"""Score packed data with a teacher: its likeliest tokens at every position."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("score_topk"))
