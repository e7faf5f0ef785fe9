#!/usr/bin/env python3
"""Hand the answers of an evaluate stage to other judges, and compare their marks."""

import sys

from megatron_dasd.commands.app import main

if __name__ == "__main__":
    sys.exit(main(["judges", *sys.argv[1:]]))
