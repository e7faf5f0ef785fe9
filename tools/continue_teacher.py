#!/usr/bin/env python3
"""Let the teacher continue the student's cut responses."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("continue_teacher"))
