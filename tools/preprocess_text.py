#!/usr/bin/env python3
"""Tokenise and pack plain text."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("preprocess_text"))
