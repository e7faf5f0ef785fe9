#!/usr/bin/env python3
"""Say what of a Hugging Face model is supported, what is missing, which weights have no home."""

import sys

from megatron_dasd.commands.check import main

if __name__ == "__main__":
    sys.exit(main())
