#!/usr/bin/env python3
"""Grade the students' answers to held-out prompts."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("evaluate"))
