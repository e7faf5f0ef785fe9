"""Programs that look into the model of one rank."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_dasd.config.base import Launch
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import common_flags, load_model


def main(payload: dict[str, Any]) -> None:
    """Loss and gradients of packed rows, and of their documents one at a time."""
    flags = common_flags(read_architecture(Path(payload["model"])), Launch(), 64, "float32")
    (model,) = load_model(flags, Path(payload["checkpoint"]))
    from megatron_dasd.data.packed_dataset import PackedDataset

    rows = PackedDataset(Path(payload["data"]))
    figures = {
        "packed": [loss_and_gradients(model, [rows[i]]) for i in range(3)],
        "apart": [loss_and_gradients(model, documents(rows, i)) for i in range(3)],
        "documents": [len(documents(rows, i)) for i in range(3)],
    }
    Path(payload["out"]).write_text(json.dumps(figures))


def documents(rows: Any, index: int) -> list[dict[str, np.ndarray]]:
    """Each document of a row in a row of its own, without padding."""
    from megatron_dasd.data.rows import packed_row

    found = [rows.document(number) for number in rows.packs[index].tolist()]
    return [packed_row([document], len(document["tokens"])) for document in found]


def loss_and_gradients(model: torch.nn.Module, rows: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Sum of the token losses that count, and some of the gradients."""
    from functools import partial

    from megatron.training import get_args

    from megatron_dasd.losses.cross_entropy import token_shares, weighted_loss
    from megatron_dasd.losses.output_layer import token_losses
    from megatron_dasd.models.packed import forward, to_batch

    model.zero_grad()
    total = 0.0
    for row in rows:
        batch = to_batch(row)
        processor = partial(token_losses, vocab_size=get_args().vocab_size)
        losses = forward(model, batch, output_processor=processor)
        shares = token_shares(
            batch["loss_mask"].flatten(), batch["position_ids"].flatten(), "token"
        )
        loss, _, _ = weighted_loss(*shares, losses)
        loss.backward()
        total += loss.item()
    grads = {name: p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": total, "grads": {name: grad.tolist() for name, grad in grads.items()}}
