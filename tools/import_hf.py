#!/usr/bin/env python3
"""Import a Hugging Face folder as a Megatron checkpoint."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("import_hf"))
