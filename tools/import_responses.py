#!/usr/bin/env python3
"""Read responses that a teacher wrote elsewhere, with or without its log-probs."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("import_responses"))
