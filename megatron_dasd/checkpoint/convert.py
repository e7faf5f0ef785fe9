"""Weights from a Hugging Face folder into a Megatron model in memory, and back."""

from pathlib import Path

import torch
from torch import Tensor

from megatron_dasd.checkpoint.hf_folder import HfWeights
from megatron_dasd.checkpoint.names import rules
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Architecture

_IGNORED_HF = ("rotary_emb.inv_freq",)
_TIED_HF = "lm_head.weight"


@torch.no_grad()
def load_hf(model: torch.nn.Module, folder: Path, architecture: Architecture) -> None:
    """Copy every tensor of the folder into a whole model (one rank, one stage).

    Raises:
        UserError: a tensor is missing, left over, or of another shape.
    """
    weights, parameters = HfWeights(folder), dict(model.named_parameters())
    unread = {name for name in weights.names() if not name.endswith(_IGNORED_HF)}
    if architecture.tied_embeddings:
        unread.discard(_TIED_HF)
    for rule in rules(architecture):
        joined = rule.join([weights.read(name) for name in rule.hf])
        parameter = parameters.pop(rule.megatron)
        if joined.shape != parameter.shape:
            raise UserError(
                f"{folder}: {', '.join(rule.hf)}: makes a tensor of shape {list(joined.shape)}, "
                f"the config asks for {list(parameter.shape)}"
            )
        parameter.copy_(joined)
        unread.difference_update(rule.hf)
    if unread:
        raise UserError(f"{folder}: tensor {min(unread)} is not part of the architecture")
    if parameters:
        raise RuntimeError(f"no rule for the Megatron tensors {sorted(parameters)}")


@torch.no_grad()
def to_hf(
    model: torch.nn.Module, architecture: Architecture, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The Hugging Face tensors of a whole model (one rank, one stage), in ``dtype``."""
    parameters = dict(model.named_parameters())
    tensors: dict[str, Tensor] = {}
    for rule in rules(architecture):
        tensors |= zip(rule.hf, rule.split(parameters.pop(rule.megatron).to(dtype)), strict=True)
    if parameters:
        raise RuntimeError(f"no rule for the Megatron tensors {sorted(parameters)}")
    return tensors
