"""``python -m megatron_dasd.pipeline PIPELINE.yaml``."""

import sys

from megatron_dasd.pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
