#!/usr/bin/env python3
"""What a pipeline will take: memory by part, layouts that fit, hours, GPU hours, cost, disk.

tools/plan.py PIPELINE.yaml [--set STAGE.SETTING=VALUE] [--html FILE] [--json FILE]
"""

import sys

from megatron_dasd.planning.cli import main

if __name__ == "__main__":
    sys.exit(main())
