"""Attention heads that change nothing, so that tensor parallelism divides a model's heads.

An added head's query, key and value projections are zero, and so are its columns of the output
projection: it puts out zero, and every gradient of its weights is a product with one of the zeros.
Training leaves it at zero, exactly.
"""

from typing import Any

import torch
from torch import Tensor

from megatron_dasd.errors import UserError

Tensors = dict[str, Tensor]


def add_zero_heads(
    tensors: Tensors, config: dict[str, Any], num_key_value_heads: int
) -> tuple[Tensors, dict[str, Any]]:
    """Add key-value heads, each with its share of query heads.

    Args:
        tensors: a Llama-shaped model's, by Hugging Face name.
        config: its ``config.json``.
        num_key_value_heads: key-value heads after.

    Returns:
        All tensors; ``q_proj`` ``[Q*D, H]``, ``k_proj`` and ``v_proj`` ``[G*D, H]`` with more rows,
        ``o_proj`` ``[H, Q*D]`` with more columns.  The config that tells of them.

    Raises:
        UserError: the model has as many heads or more.
    """
    queries = config["num_attention_heads"]
    before = config.get("num_key_value_heads") or queries
    if num_key_value_heads <= before:
        raise UserError(f"num_key_value_heads: must be over the model's {before}")
    added = num_key_value_heads - before
    widened = {name: _widened(name, tensor, before, added) for name, tensor in tensors.items()}
    heads = {
        "num_attention_heads": queries // before * num_key_value_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // queries,
    }
    return widened, config | heads


def _widened(name: str, tensor: Tensor, before: int, added: int) -> Tensor:
    """Append zeros for the added heads: rows of what reads, columns of what writes."""
    if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
        return torch.nn.functional.pad(tensor, (0, 0, 0, tensor.shape[0] // before * added))
    if name.endswith("o_proj.weight"):
        return torch.nn.functional.pad(tensor, (0, tensor.shape[1] // before * added))
    return tensor
