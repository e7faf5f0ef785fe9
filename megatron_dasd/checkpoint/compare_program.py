"""One-rank program of a verification: every tensor of both sides, bit for bit."""

import torch
from torch import Tensor

from megatron_dasd.checkpoint.convert import check_source, expected_tensors, mapping_table, to_hf
from megatron_dasd.checkpoint.hf_folder import HfWeights, weights_dtype
from megatron_dasd.checkpoint.payloads import ComparePayload, TensorComparison
from megatron_dasd.checkpoint.process import write_result
from megatron_dasd.checkpoint.stored_model import StoredModel
from megatron_dasd.device.launch import run_program
from megatron_dasd.models.hf_config import read_architecture


def main(payload: ComparePayload) -> None:
    """Count the tensors and name those that are not what the checkpoint holds."""
    folder = payload.model
    architecture = read_architecture(folder)
    dtype = getattr(torch, weights_dtype(folder))
    model = StoredModel(architecture, payload.checkpoint, payload.dtype)
    weights = HfWeights(folder)
    table = mapping_table(architecture, model.parameters)
    expected = expected_tensors(table, model.parameters, dtype, weights)
    check_source(weights, expected, architecture)
    different = [
        hf_name
        for name, mapping in table.items()
        for hf_name, tensor in to_hf(model.read(name), mapping, expected).items()
        if not same_bits(tensor, weights.read(hf_name))
    ]
    model.check_read_once()
    write_result(payload, TensorComparison(num_tensors=len(expected), different=different))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one type are equal bit for bit, also where they hold no number."""
    as_bytes = (x.contiguous().flatten().view(torch.uint8) for x in (a, b))
    return a.shape == b.shape and torch.equal(*as_bytes)


if __name__ == "__main__":
    run_program(main)
