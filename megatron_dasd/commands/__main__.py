"""``python -m megatron_dasd.commands``: the command ``dasd`` where it is not on ``PATH``."""

import sys

from megatron_dasd.commands.app import main

if __name__ == "__main__":
    sys.exit(main())
