#!/usr/bin/env python3
"""Sample responses from the teacher."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("sample_teacher"))
