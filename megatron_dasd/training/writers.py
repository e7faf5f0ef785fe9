"""TensorBoard and W&B: Megatron's own writers, and this program's figures in them too.

Megatron tells W&B of a step only where TensorBoard is told too, and fails with a traceback, or says
in one line among hundreds that nothing will be written, where a package is missing.
"""

import argparse
import hashlib
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from megatron_dasd.device.doctor import is_installed
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Flags


def writer_flags(given: Flags, logs: Path, name: str) -> Flags:
    """What a stage adds to flags that name a W&B project: a run's name, and places in its logs."""
    if "wandb-project" not in given:
        return {}
    return {
        "wandb-exp-name": name,
        "wandb-save-dir": logs,
        "tensorboard-dir": logs / "tensorboard",
    }


def prepare(argv: list[str]) -> list[str]:
    """Before Megatron parses its flags, and opens its writers at once: what these need.

    A run that goes on after a restart goes on in W&B too.  Without a key, and unless ``WANDB_MODE``
    says otherwise, it is written to the disk, since W&B would wait for a network.

    Args:
        argv: Megatron's command line.

    Returns:
        What is missing of it.

    Raises:
        UserError: a package is missing, or the run has no name.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for flag in ("wandb-project", "wandb-exp-name", "wandb-save-dir", "tensorboard-dir", "save"):
        parser.add_argument(f"--{flag}")
    named, _ = parser.parse_known_args(argv)
    more = []
    if named.wandb_project:
        if not named.wandb_exp_name:
            raise UserError("--wandb-project wants --wandb-exp-name, the name of the run")
        place = named.wandb_save_dir or named.save
        if not place:
            raise UserError("--wandb-project wants --wandb-save-dir, or --save")
        _require("wandb", "wandb-project")
        _set_environment(f"{named.wandb_project} {named.wandb_exp_name} {Path(place).resolve()}")
        if not named.tensorboard_dir:
            more = ["--tensorboard-dir", str(Path(place) / "tensorboard")]
    if named.tensorboard_dir or more:
        _require("tensorboard", "tensorboard-dir")
    return more


def write(figures: dict[str, Any], iteration: int) -> None:
    """Add figures of a step to the writers that are open on this rank."""
    from megatron.training import get_tensorboard_writer, get_wandb_writer

    board, wandb = get_tensorboard_writer(), get_wandb_writer()
    for name, value in figures.items():
        if board:
            board.add_scalar(name, value, iteration)
    if wandb and figures:
        wandb.log(figures, iteration)


def _set_environment(run: str) -> None:
    if "WANDB_MODE" not in os.environ and not _has_key():
        os.environ["WANDB_MODE"] = "offline"
        if os.environ.get("RANK", "0") == "0":
            print("no key of W&B: offline; send the run later with wandb sync", flush=True)
    os.environ.setdefault("WANDB_RUN_ID", hashlib.sha256(run.encode()).hexdigest()[:16])
    os.environ.setdefault("WANDB_RESUME", "allow")


def _has_key() -> bool:
    """Whether ``wandb login`` or the environment has left one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    try:
        return host is not None and netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _require(package: str, flag: str) -> None:
    if not is_installed(package):
        raise UserError(f"--{flag}: {package} is not installed: pip install 'megatron_dasd[wandb]'")
