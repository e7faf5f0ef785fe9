#!/usr/bin/env python3
"""Say what this machine has, what that switches on, and what adding the rest would bring."""

import sys

from megatron_dasd.commands.doctor import main

if __name__ == "__main__":
    sys.exit(main())
