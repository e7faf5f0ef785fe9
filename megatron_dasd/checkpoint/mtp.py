"""Heads that guess several tokens ahead (multi-token prediction), which are not trained here.

A forward pass of the model does not ask them; servers may, to decode speculatively.
"""

import json
from pathlib import Path

from megatron_dasd.checkpoint.hf_folder import HfWeights, TensorInfo, read_config
from megatron_dasd.errors import UserError

MTP = "mtp."
"""What the names of their tensors begin with."""
_NUMBER = "mtp_num_hidden_layers"
_TEXT = "text_config"
"""The part of a multimodal model's config that is its language model's."""


def mtp_tensors(weights: HfWeights | None, folder: Path) -> dict[str, TensorInfo]:
    """The heads' tensors of a model.

    Raises:
        UserError: it has none.
    """
    tensors = weights.tensors if weights else {}
    found = {name: info for name, info in sorted(tensors.items()) if name.startswith(MTP)}
    if not found:
        raise UserError(f"{folder}: setting mtp: copy: no tensor named {MTP}* is there to copy")
    return found


def number_of_heads(folder: Path) -> int:
    """How many of them a folder's config names."""
    config = read_config(folder)
    for part in (config, config.get(_TEXT)):
        if isinstance(part, dict) and isinstance(part.get(_NUMBER), int):
            return int(part[_NUMBER])
    return 0


def set_no_mtp(folder: Path) -> None:
    """Let a folder's config name none of them; all other fields stay as they are."""
    if not number_of_heads(folder):
        return
    config = read_config(folder)
    for part in (config, config.get(_TEXT)):
        if isinstance(part, dict) and _NUMBER in part:
            part[_NUMBER] = 0
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
