#!/usr/bin/env python3
"""Collect prompts from files and task generators, and hold a part of them out."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("make_prompts"))
