#!/usr/bin/env python3
"""Submit a pipeline to Slurm as a graph of dependent jobs; again, and it goes on.

tools/submit.py PIPELINE.yaml [--dry-run | --status] [--from STAGE] [--until STAGE]
"""

import sys

from megatron_dasd.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
