"""One-rank program of an import."""

import torch

from megatron_dasd.checkpoint.convert import check_source, expected_tensors, from_hf, mapping_table
from megatron_dasd.checkpoint.hf_folder import HfWeights
from megatron_dasd.checkpoint.payloads import Converted, ImportPayload
from megatron_dasd.checkpoint.process import peak_memory_bytes, write_result
from megatron_dasd.device.launch import run_program
from megatron_dasd.models.architecture import Flags
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import load_shape


def main(payload: ImportPayload) -> None:
    """Let Megatron save a model whose parameters are read when they are written."""
    folder = payload.model
    architecture = read_architecture(folder)
    saving: Flags = {
        "save": payload.save,
        "save-interval": 1,
        "no-save-optim": True,
        "no-save-rng": True,
    }
    model = load_shape(architecture, payload.dtype, saving)
    # after start-up: these modules take their device from the adapter
    from megatron.training.checkpointing import save_checkpoint

    from megatron_dasd.checkpoint.sharding import Placement, StreamingSave

    placement = Placement(model)
    table = mapping_table(architecture, placement.parameters)
    weights = HfWeights(folder)
    dtype = getattr(torch, payload.dtype)
    expected = expected_tensors(table, placement.parameters, dtype, weights)
    check_source(weights, expected, architecture)
    strategy = StreamingSave(placement, lambda name: from_hf(weights, table[name]))
    save_checkpoint(
        iteration=0,
        model=[model],
        optimizer=None,
        opt_param_scheduler=None,
        num_floating_point_operations_so_far=0,
        checkpointing_context={"save_strategy": strategy},
    )
    num_tensors = sum(len(mapping.hf) for mapping in table.values())
    write_result(payload, Converted(num_tensors=num_tensors, peak_memory_bytes=peak_memory_bytes()))


if __name__ == "__main__":
    run_program(main)
