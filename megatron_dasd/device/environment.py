"""What this machine has, as one line: printed by ``python -m megatron_dasd.device.environment``."""

import os
from importlib.metadata import version

import torch

from megatron_dasd.device import cpu_adapter
from megatron_dasd.printing import say


def describe() -> str:
    """Cores or GPU, and the versions that a result depends on."""
    if cpu_adapter.needed():
        device = f"{len(os.sched_getaffinity(0))} cores, no GPU"
    else:
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    packages = (f"{name} {version(name)}" for name in ("torch", "megatron-core", "transformers"))
    return f"{device}; {', '.join(packages)}"


def main(payload: dict[str, str]) -> None:
    """A rank's program: print the line into its log.

    Args:
        payload: empty.
    """
    say(describe())


if __name__ == "__main__":
    say(describe())
