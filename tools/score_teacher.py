#!/usr/bin/env python3
"""Score given texts, or the student's, by the teacher's log-probs."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("score_teacher"))
