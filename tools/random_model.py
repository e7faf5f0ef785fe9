#!/usr/bin/env python3
"""Make a small model with random weights."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("random_model"))
