"""One-rank program of an export."""

import torch

from megatron_dasd.checkpoint.convert import (
    check_source,
    expected_tensors,
    mapping_table,
    to_hf,
    total_bytes,
)
from megatron_dasd.checkpoint.hf_folder import (
    HfWeights,
    TensorInfo,
    find_weights,
    require_space,
    weights_dtype,
)
from megatron_dasd.checkpoint.hf_overlay import HfOverlay
from megatron_dasd.checkpoint.hf_writer import HfWriter
from megatron_dasd.checkpoint.mtp import mtp_tensors
from megatron_dasd.checkpoint.payloads import Converted, ExportPayload
from megatron_dasd.checkpoint.process import peak_memory_bytes, write_result
from megatron_dasd.checkpoint.stored_model import StoredModel
from megatron_dasd.device.launch import run_program
from megatron_dasd.models.hf_config import read_architecture


def main(payload: ExportPayload) -> None:
    """Read the checkpoint tensor by tensor and write each under its own name."""
    out, dtype = payload.out, getattr(torch, payload.dtype)
    architecture = read_architecture(payload.model)
    model = StoredModel(architecture, payload.checkpoint, payload.dtype)
    table = mapping_table(architecture, model.parameters)
    source: HfWeights | None
    writer: HfWriter | HfOverlay
    copied: dict[str, TensorInfo] = {}
    if architecture.family.multimodal:
        source = HfWeights(payload.model)
        dtype = getattr(torch, weights_dtype(payload.model))
        tensors = expected_tensors(table, model.parameters, dtype, source)
        check_source(source, tensors, architecture)
        require_space(out, total_bytes(source.tensors))
        writer = HfOverlay(source, out)
    else:
        source = find_weights(payload.model)
        tensors = expected_tensors(table, model.parameters, dtype, source)
        copied = mtp_tensors(source, payload.model) if payload.copy_mtp else {}
        require_space(out, total_bytes(tensors | copied))
        writer = HfWriter(out, tensors | copied, payload.max_shard_bytes)
    with writer:
        for name, mapping in table.items():
            for hf_name, tensor in to_hf(model.read(name), mapping, tensors).items():
                writer.write(hf_name, tensor)
        for hf_name in copied:
            assert source is not None, "the tensors to copy were found in it"
            writer.write(hf_name, source.read(hf_name))
    model.check_read_once()
    number = len(tensors) + len(copied)
    write_result(payload, Converted(num_tensors=number, peak_memory_bytes=peak_memory_bytes()))


if __name__ == "__main__":
    run_program(main)
