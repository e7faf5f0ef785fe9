"""Folders that come with the program beside its modules: job scripts and examples."""

from pathlib import Path

from megatron_dasd.errors import UserError

_PACKAGE = Path(__file__).parent


def shipped_folder(name: str) -> Path:
    """The folder ``slurm`` or ``examples``: in the package as installed, or in a checkout.

    Raises:
        UserError: it is in neither.
    """
    for place in (_PACKAGE, _PACKAGE.parent):
        if (place / name).is_dir():
            return place / name
    raise UserError(f"{_PACKAGE / name}: missing; install the package again")
