"""One-rank program of stage verify_conversion.

Payload: model, checkpoint, responses, num_tokens, result.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from megatron_dasd.config.base import Launch
from megatron_dasd.data.rows import packed_row
from megatron_dasd.device.launch import run_program
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import read_architecture
from megatron_dasd.models.program import common_flags, load_model
from megatron_dasd.records import FilteredResponse
from megatron_dasd.records_io import read_records
from megatron_dasd.text.encoding import encode, load_tokenizer


@torch.no_grad()
def main(payload: dict[str, Any]) -> None:
    """Write the largest difference, the cosine and the agreement of the most probable token."""
    folder = Path(payload["model"])
    token_ids = _text_tokens(folder, Path(payload["responses"]), payload["num_tokens"])
    # before Megatron starts: its adapter would reroute transformers' calls too
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = theirs(torch.tensor([token_ids])).logits[0]
    actual = _megatron_logits(folder, Path(payload["checkpoint"]), token_ids)
    result = compare_logits(actual[:, : expected.shape[-1]], expected)
    Path(payload["result"]).write_text(json.dumps(result))


def compare_logits(actual: Tensor, expected: Tensor) -> dict[str, Any]:
    """Compare logits ``[seq, vocab]`` at every position."""
    return {
        "num_tokens": expected.shape[0],
        "max_difference": float((actual - expected).abs().max()),
        "min_cosine": float(torch.nn.functional.cosine_similarity(actual, expected).min()),
        "top_token_agreement": float((actual.argmax(-1) == expected.argmax(-1)).float().mean()),
    }


def _text_tokens(folder: Path, responses: Path, num_tokens: int) -> list[int]:
    tokenizer = load_tokenizer(folder)
    token_ids: list[int] = []
    for record in read_records(responses, FilteredResponse):
        token_ids += encode(tokenizer, record.output)
        if len(token_ids) >= num_tokens:
            return token_ids[:num_tokens]
    if not token_ids:
        raise UserError(f"{responses}: no text to compare the models on")
    return token_ids


def _megatron_logits(folder: Path, checkpoint: Path, token_ids: list[int]) -> Tensor:
    num_tokens = len(token_ids)
    flags = common_flags(read_architecture(folder), Launch(), num_tokens, "float32")
    (model,) = load_model(flags, checkpoint)
    from megatron_dasd.models.packed import forward, to_batch

    document = {"tokens": np.array(token_ids), "loss_mask": np.zeros(num_tokens)}
    row = packed_row([document], num_tokens)
    return forward(model, to_batch(row), with_loss=False)[0].cpu()


if __name__ == "__main__":
    run_program(main)
