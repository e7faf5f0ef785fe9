#!/usr/bin/env python3
"""Score responses with the student: log-probs by Megatron's forward pass."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("score_student"))
