"""Tensors of a Hugging Face folder and parameters of a Megatron model: which becomes which.

The table of names drives all of it; what it says is held against both sides before a tensor moves.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from megatron_dasd.checkpoint.hf_folder import HfWeights, TensorInfo
from megatron_dasd.checkpoint.mtp import MTP
from megatron_dasd.checkpoint.names import TensorMapping, tensor_mappings
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Architecture

_IGNORED_HF = ("rotary_emb.inv_freq",)
"""Computed from the config; older files hold it all the same."""
_TIED_HF = "lm_head.weight"
"""The embedding once more, in some folders whose config ties both."""


def mapping_table(
    architecture: Architecture, parameters: Mapping[str, Tensor]
) -> dict[str, TensorMapping]:
    """The mappings by Megatron parameter, in order: one for each parameter, and none left over.

    Args:
        parameters: of the whole model on one rank, by name.
    """
    table: dict[str, TensorMapping] = {}
    for mapping in tensor_mappings(architecture):
        if mapping.megatron in table or mapping.megatron not in parameters:
            raise RuntimeError(
                f"a mapping for {mapping.megatron}, which is not there or has one already"
            )
        table[mapping.megatron] = mapping
    if missing := parameters.keys() - table.keys():
        raise RuntimeError(f"no mapping for the Megatron tensors {sorted(missing)}")
    return table


def expected_tensors(
    table: Mapping[str, TensorMapping],
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype,
    source: HfWeights | None = None,
) -> dict[str, TensorInfo]:
    """The Hugging Face tensors that a model has, in the order of the mappings.

    Args:
        parameters: may be on the meta device.
        dtype: of the Hugging Face tensors.
        source: the model that they come from, whose types those tensors have that Megatron holds
            in float32; without it they are float32.
    """
    tensors: dict[str, TensorInfo] = {}
    for name, mapping in table.items():
        parts = mapping.split(parameters[name])
        for hf_name, part in zip(mapping.hf, parts, strict=True):
            if hf_name in tensors:
                raise RuntimeError(f"two mappings for the Hugging Face tensor {hf_name}")
            own = torch.float32 if mapping.wide else dtype
            if mapping.wide and source and hf_name in source.tensors:
                own = source.tensors[hf_name].dtype
            tensors[hf_name] = TensorInfo(tuple(part.shape), own)
    return tensors


def check_source(
    weights: HfWeights, expected: Mapping[str, TensorInfo], architecture: Architecture
) -> None:
    """Make sure that a folder holds the tensors that its config asks for, and no others.

    A multimodal model may hold any others that are not of its text model.

    Raises:
        UserError: naming a tensor that is missing, left over, of another shape or type, or a head
            that is not the embedding which the config ties it to.
    """
    folder, found = weights.folder, weights.tensors
    for name, info in expected.items():
        if name not in found:
            raise UserError(f"{folder}: tensor {name} is missing")
        if found[name].shape != info.shape:
            raise UserError(
                f"{folder}: tensor {name} has shape {list(found[name].shape)}, "
                f"the config asks for {list(info.shape)}"
            )
        if found[name].dtype != info.dtype:
            raise UserError(
                f"{folder}: tensor {name} is {_type(found[name])}, config.json says "
                f"{_type(info)}; set its field dtype to what the weights are, all of one type"
            )
    prefix = architecture.family.prefix
    for name in sorted(found.keys() - expected.keys()):
        tied = architecture.tied_embeddings and name == _TIED_HF
        embedding = f"{prefix}embed_tokens.weight"
        if tied and not torch.equal(weights.read(name), weights.read(embedding)):
            raise UserError(
                f"{folder}: config.json ties {name} to the embedding, and the file holds another "
                "one; set its field tie_word_embeddings to false, or take the tensor out"
            )
        if not has_home(name, architecture):
            raise UserError(f"{folder}: tensor {name} is not part of the architecture")


def has_home(name: str, architecture: Architecture) -> bool:
    """Whether a tensor that is no parameter of the trained model may lie in its folder.

    It is computed from the config, is the embedding once more, or belongs to heads that guess ahead
    or to a part of a multimodal model, which are not trained.
    """
    family = architecture.family
    return (
        name.endswith(_IGNORED_HF)
        or (architecture.tied_embeddings and name == _TIED_HF)
        or (family.mtp and name.startswith(MTP))
        or (family.multimodal and not name.startswith((family.prefix, _TIED_HF)))
    )


def from_hf(weights: HfWeights, mapping: TensorMapping) -> Tensor:
    """One Megatron parameter from the folder."""
    parameter = mapping.join([weights.read(name) for name in mapping.hf])
    return parameter.float() if mapping.wide else parameter


def to_hf(
    parameter: Tensor, mapping: TensorMapping, tensors: Mapping[str, TensorInfo]
) -> dict[str, Tensor]:
    """The Hugging Face tensors of one Megatron parameter, in their types."""
    parts = mapping.split(parameter.to(tensors[mapping.hf[0]].dtype))
    return dict(zip(mapping.hf, parts, strict=True))


def total_bytes(tensors: Mapping[str, TensorInfo]) -> int:
    """Size of all tensors together."""
    return sum(info.num_bytes for info in tensors.values())


def _type(info: TensorInfo) -> str:
    return str(info.dtype).removeprefix("torch.")
