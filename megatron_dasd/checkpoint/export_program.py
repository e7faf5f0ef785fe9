"""One-rank program of stage export_hf.  Payload: model, checkpoint, dtype, out."""

import json
from pathlib import Path
from typing import Any

import torch

from megatron_dasd.checkpoint.hf_folder import write_hf_folder
from megatron_dasd.config.base import Launch
from megatron_dasd.device.launch import run_program
from megatron_dasd.models.architecture import read_architecture
from megatron_dasd.models.program import common_flags, load_model


def main(payload: dict[str, Any]) -> None:
    """Load the checkpoint as one whole model and write its tensors under their own names."""
    source, out, dtype = Path(payload["model"]), Path(payload["out"]), payload["dtype"]
    architecture = read_architecture(source)
    flags = common_flags(architecture, Launch(), seq_length=1, dtype=dtype)
    (model,) = load_model(flags, Path(payload["checkpoint"]))
    # after start-up: these modules take their device from the adapter
    from megatron.core.utils import unwrap_model

    from megatron_dasd.checkpoint.convert import to_hf

    tensors = to_hf(unwrap_model(model), architecture, getattr(torch, dtype))
    write_hf_folder(out, tensors, source)
    config = json.loads((out / "config.json").read_text())
    config.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
