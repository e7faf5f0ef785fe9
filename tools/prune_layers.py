#!/usr/bin/env python3
"""Make a student from a model by removing layers."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("prune_layers"))
