#!/usr/bin/env python3
"""Filter responses, counting every drop under its reason."""

import sys

from megatron_dasd.pipeline.cli import run_kind

if __name__ == "__main__":
    sys.exit(run_kind("filter_responses"))
