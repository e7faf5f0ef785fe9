#!/usr/bin/env python3
"""Write report.html and report.json of a run."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("report"))
