#!/usr/bin/env python3
"""Show a packed row decoded, or check a whole data set.

Usage: tools/inspect_data.py FOLDER [--row N] [--model FOLDER] | FOLDER --check
"""

import sys

from megatron_dasd.data.inspect_cli import main

if __name__ == "__main__":
    sys.exit(main())
