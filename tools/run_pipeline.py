#!/usr/bin/env python3
"""Run a pipeline: every stage that is not up to date, in order."""

import sys

from megatron_dasd.pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
