"""A program's start, as a rank of its own."""

from pathlib import Path
from typing import Any

import torch

from megatron_dasd.config.base import Launch
from megatron_dasd.device.launch import run_program
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import common_flags, parse_flags


def main(payload: dict[str, Any]) -> None:
    """Start where TF32 is on, as NVIDIA's container has it; write down what is on afterwards."""
    torch.set_float32_matmul_precision("high")
    architecture = read_architecture(Path(payload["model"]))
    parse_flags(common_flags(architecture, Launch(), seq_length=8, dtype="float32"))
    Path(payload["out"]).write_text(torch.get_float32_matmul_precision())


if __name__ == "__main__":
    run_program(main)
