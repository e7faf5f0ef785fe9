#!/usr/bin/env python3
"""Train the student with Megatron."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("train"))
