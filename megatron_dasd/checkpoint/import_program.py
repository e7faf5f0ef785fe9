"""One-rank program of an import.  Payload: model, save, dtype, result."""

from pathlib import Path
from typing import Any

import torch

from megatron_dasd.checkpoint.convert import check_source, expected_tensors, from_hf, rule_table
from megatron_dasd.checkpoint.hf_folder import HfWeights
from megatron_dasd.checkpoint.process import write_result
from megatron_dasd.device.launch import run_program
from megatron_dasd.models.architecture import read_architecture
from megatron_dasd.models.program import load_shape


def main(payload: dict[str, Any]) -> None:
    """Let Megatron save a model whose parameters are read when they are written."""
    folder = Path(payload["model"])
    architecture = read_architecture(folder)
    saving = {"save": payload["save"], "save-interval": 1}
    saving |= {"no-save-optim": True, "no-save-rng": True}
    model = load_shape(architecture, payload["dtype"], **saving)
    # after start-up: these modules take their device from the adapter
    from megatron.training.checkpointing import save_checkpoint

    from megatron_dasd.checkpoint.sharding import Placement, StreamingSave

    placement = Placement(model)
    table = rule_table(architecture, placement.parameters)
    weights = HfWeights(folder)
    dtype = getattr(torch, payload["dtype"])
    check_source(weights, expected_tensors(table, placement.parameters, dtype), architecture)
    strategy = StreamingSave(placement, lambda name: from_hf(weights, table[name]))
    save_checkpoint(
        iteration=0,
        model=[model],
        optimizer=None,
        opt_param_scheduler=None,
        num_floating_point_operations_so_far=0,
        checkpointing_context={"save_strategy": strategy},
    )
    write_result(payload, num_tensors=sum(len(rule.hf) for rule in table.values()))


if __name__ == "__main__":
    run_program(main)
