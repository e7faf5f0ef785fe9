#!/usr/bin/env python3
"""Select the responses that teach most (divergence-aware sampling)."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("select_das"))
