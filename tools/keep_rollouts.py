#!/usr/bin/env python3
"""Keep what the student wrote whole, as responses to train on token by token."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("keep_rollouts"))
