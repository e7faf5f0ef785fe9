"""The command line of ``tools/inspect_data.py``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron_dasd.last_net import guard


def main(arguments: Sequence[str] | None = None) -> int:
    """Show a packed row or check a data set.

    Returns the exit status: 1 if the check finds a fault, 2 for a mistake of the user's.
    """
    parser = argparse.ArgumentParser(description="Show packed data, or check it.")
    parser.add_argument("folder", type=Path, help="a preprocessing stage's folder")
    parser.add_argument("--row", type=int, default=0, metavar="N", help="row to show (default 0)")
    parser.add_argument(
        "--model", type=Path, help="Hugging Face folder of the tokenizer, or its stage's folder"
    )
    parser.add_argument(
        "--check", action="store_true", help="check the whole data set; prints one line a fault"
    )
    options = parser.parse_args(arguments)

    def run() -> int:
        from megatron_dasd.data.inspect import check, show_row  # imports torch and transformers

        if options.check:
            return int(check(options.folder))
        show_row(options.folder, options.row, options.model)
        return 0

    return guard(run)
