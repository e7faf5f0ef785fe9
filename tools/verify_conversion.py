#!/usr/bin/env python3
"""Compare an exported folder's logits with its Megatron checkpoint's."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("verify_conversion"))
