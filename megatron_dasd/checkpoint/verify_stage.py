"""Stage verify_conversion: an exported folder against the Megatron checkpoint it came from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import LOGS, StageFolder, model_folder
from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.config.training import VerifyConversion
from megatron_dasd.device.launch import launch
from megatron_dasd.errors import UserError


def run(
    settings: VerifyConversion, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, Any]:
    """Compare logits at every position of real text, in fp32.

    Raises:
        UserError: the largest difference is over the tolerance.
    """
    result = folder.path / LOGS / "result.json"
    launch(
        "megatron_dasd.checkpoint.verify_program",
        {
            "model": str(model_folder(inputs[settings.model])),
            "checkpoint": str(open_checkpoint(inputs[settings.checkpoint]).folder),
            "responses": str(inputs[settings.responses]),
            "num_tokens": settings.num_tokens,
            "result": str(result),
        },
        num_ranks=1,
        log_dir=folder.path / LOGS,
    )
    figures: dict[str, Any] = json.loads(result.read_text()) | {"tolerance": settings.tolerance}
    if figures["max_difference"] > settings.tolerance:
        raise UserError(
            f"{inputs[settings.model]}: logits differ from the checkpoint's by up to "
            f"{figures['max_difference']:.2e}, over the tolerance {settings.tolerance:.0e}"
        )
    folder.write_json("comparison.json", figures)
    return figures
