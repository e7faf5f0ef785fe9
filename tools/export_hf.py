#!/usr/bin/env python3
"""Export a Megatron checkpoint as a Hugging Face folder."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("export_hf"))
