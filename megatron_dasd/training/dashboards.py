"""TensorBoard and W&B: Megatron's own writers, and this program's metrics in them too.

Megatron sends a step to W&B only where it sends it to TensorBoard too.  Where a package is missing
it fails with a traceback, or says in one line among hundreds that nothing will be written.
"""

import argparse
import hashlib
import netrc
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from megatron_dasd.device.doctor import is_installed
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Flags
from megatron_dasd.printing import say
from megatron_dasd.training.metrics import Value


def dashboard_flags(given: Flags, logs: Path, name: str) -> Flags:
    """Flags that a stage adds where ``given`` names a W&B project: the run's name, and folders."""
    if "wandb-project" not in given:
        return {}
    return {
        "wandb-exp-name": name,
        "wandb-save-dir": logs,
        "tensorboard-dir": logs / "tensorboard",
    }


def prepare(argv: list[str]) -> list[str]:
    """Prepare the environment for the dashboards; Megatron opens them as it parses its flags.

    A run that resumes after a restart resumes in W&B too.  Without a key, and unless ``WANDB_MODE``
    is set, the run is written to the disk, since W&B would wait for a network.

    Args:
        argv: Megatron's command line.

    Returns:
        Flags to be added to it.

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
            raise UserError("--wandb-project needs --wandb-exp-name, the name of the run")
        place = named.wandb_save_dir or named.save
        if not place:
            raise UserError("--wandb-project needs --wandb-save-dir, or --save")
        _require("wandb", "wandb-project")
        _set_environment(f"{named.wandb_project} {named.wandb_exp_name} {Path(place).resolve()}")
        if not named.tensorboard_dir:
            more = ["--tensorboard-dir", str(Path(place) / "tensorboard")]
    if named.tensorboard_dir or more:
        _require("tensorboard", "tensorboard-dir")
    return more


def write(values: Mapping[str, Value], iteration: int) -> None:
    """Send a step's metrics to the dashboards that are open on this rank."""
    from megatron.training import get_tensorboard_writer, get_wandb_writer

    board, wandb = get_tensorboard_writer(), get_wandb_writer()
    scalars = dict(_scalars(values))
    for name, value in scalars.items():
        if board:
            board.add_scalar(name, value, iteration)
    if wandb and scalars:
        wandb.log(scalars, iteration)


def _scalars(values: Mapping[str, Value]) -> Iterator[tuple[str, float]]:
    """Numbers by name, those of a metric of several as ``metric/kind/part``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            for kind, parts in value.items():
                yield from ((f"{name}/{kind}/{part}", x) for part, x in parts.items())
        else:
            yield name, value


def _set_environment(run: str) -> None:
    if "WANDB_MODE" not in os.environ and not _has_key():
        os.environ["WANDB_MODE"] = "offline"
        if os.environ.get("RANK", "0") == "0":
            say("no key of W&B: offline; send the run later with wandb sync")
    os.environ.setdefault("WANDB_RUN_ID", hashlib.sha256(run.encode()).hexdigest()[:16])
    os.environ.setdefault("WANDB_RESUME", "allow")


def _has_key() -> bool:
    """Whether there is a key of W&B, from ``wandb login`` or in the environment."""
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
