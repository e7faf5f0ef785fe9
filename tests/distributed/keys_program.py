"""What a model of one rank would put into a checkpoint: keys, shapes, places."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from megatron_dasd.config.base import Launch
from megatron_dasd.device import cpu_adapter
from megatron_dasd.models.architecture import read_architecture
from megatron_dasd.models.program import common_flags, parse_flags


def main(payload: dict[str, Any]) -> None:
    """Payload: model, a folder with a config; flags, beside the usual ones; out, a JSON file.

    The file holds ``[key, global shape, offset in it]`` for every tensor, sorted.
    """
    architecture = read_architecture(Path(payload["model"]))
    flags = common_flags(architecture, Launch(), seq_length=8, dtype="bfloat16")
    cpu_adapter.install()
    # Megatron lets nobody choose grouped experts on a machine without the kernels for them.
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    parse_flags(flags | payload["flags"])
    from megatron.core.dist_checkpointing.mapping import (
        ShardedTensor,
        ShardedTensorFactory,
        apply_factories,
    )
    from megatron.training.initialize import initialize_megatron

    from megatron_dasd.models.provider import model_provider

    initialize_megatron()
    with torch.device("meta"):
        model = model_provider()
    state = model.sharded_state_dict()
    apply_factories(state)
    entries = sorted(
        [entry.key, list(entry.global_shape), list(entry.global_offset)]
        for entry in flat(state)
        if isinstance(entry, ShardedTensor | ShardedTensorFactory)
    )
    Path(payload["out"]).write_text(json.dumps(entries))


def flat(value: Any) -> list[Any]:
    """The leaves of nested dictionaries and lists."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in flat(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in flat(inner)]
    return [value]


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
