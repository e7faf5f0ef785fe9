"""Names and shapes of Megatron's tensors for a whole model, built without memory for them."""

import json
from pathlib import Path
from typing import Any

import torch

from megatron_dasd.config.base import Launch
from megatron_dasd.models.architecture import read_architecture
from megatron_dasd.models.program import common_flags, parse_flags


def main(payload: dict[str, Any]) -> None:
    """Payload: model, a folder with a config; out, a JSON file of shapes by name."""
    architecture = read_architecture(Path(payload["model"]))
    parse_flags(common_flags(architecture, Launch(), seq_length=1, dtype="bfloat16"))
    from megatron.training.initialize import initialize_megatron

    from megatron_dasd.models.provider import model_provider

    initialize_megatron()
    with torch.device("meta"):
        model = model_provider()
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    Path(payload["out"]).write_text(json.dumps(shapes))
