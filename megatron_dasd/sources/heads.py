"""Attention heads that change nothing, so that tensor parallelism divides a model's heads.

An added head's query, key and value projections are zero, and so are its columns of the output
projection.  Its output is zero, and every gradient of its weights is a product with one of the
zeros, so training leaves it at exactly zero.
"""

import torch
from torch import Tensor

from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject, require

Tensors = dict[str, Tensor]


def add_zero_heads(
    tensors: Tensors, config: JsonObject, num_key_value_heads: int
) -> tuple[Tensors, JsonObject]:
    """Add key-value heads, each with its share of query heads.

    Args:
        tensors: a Llama-shaped model's, by Hugging Face name.
        config: its ``config.json``.
        num_key_value_heads: key-value heads after.

    Returns:
        All tensors; ``q_proj`` ``[Q*D, H]``, ``k_proj`` and ``v_proj`` ``[G*D, H]`` with more rows,
        ``o_proj`` ``[H, Q*D]`` with more columns.  The config with the new numbers.

    Raises:
        UserError: the model has as many heads or more.
        ValueError: the config lacks a size.
    """
    queries = require(config, "num_attention_heads", int)
    grouped = config.get("num_key_value_heads") is not None
    before = require(config, "num_key_value_heads", int) if grouped else queries
    if num_key_value_heads <= before:
        raise UserError(f"num_key_value_heads: must be over the model's {before}")
    added = num_key_value_heads - before
    widened = {name: _widened(name, tensor, before, added) for name, tensor in tensors.items()}
    heads = {
        "num_attention_heads": queries // before * num_key_value_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": config.get("head_dim") or require(config, "hidden_size", int) // queries,
    }
    return widened, config | heads


def _widened(name: str, tensor: Tensor, before: int, added: int) -> Tensor:
    """Append zeros for the added heads: rows of query, key and value, columns of the output."""
    if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
        return torch.nn.functional.pad(tensor, (0, 0, 0, tensor.shape[0] // before * added))
    if name.endswith("o_proj.weight"):
        return torch.nn.functional.pad(tensor, (0, tensor.shape[1] // before * added))
    return tensor
