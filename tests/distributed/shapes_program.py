"""Names and shapes of Megatron's tensors for a whole model, built without memory for them."""

import json
from pathlib import Path
from typing import Any

from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import load_shape


def main(payload: dict[str, Any]) -> None:
    """Payload: model, a folder with a config; out, a JSON file of shapes by name."""
    model = load_shape(read_architecture(Path(payload["model"])), "bfloat16")
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    Path(payload["out"]).write_text(json.dumps(shapes))
