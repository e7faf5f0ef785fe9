"""One-rank program of a verification: the logits of both sides at every position of a text."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.checkpoint.payloads import LogitComparison, LogitsPayload
from megatron_dasd.checkpoint.pickles import allow_extra_states
from megatron_dasd.checkpoint.process import write_result
from megatron_dasd.config.base import Launch
from megatron_dasd.data.rows import packed_row
from megatron_dasd.device.launch import run_program
from megatron_dasd.engines.auto_class import auto_class
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import common_flags, load_model

_ROWS = 64


@torch.no_grad()
def main(payload: LogitsPayload) -> None:
    """Compare the logits of both sides."""
    folder, token_ids = payload.model, payload.token_ids
    # before Megatron starts: its adapter would reroute transformers' calls too
    expected = _transformers_logits(folder, token_ids)
    actual = _megatron_logits(folder, payload.checkpoint, token_ids)
    write_result(payload, compare_logits(actual[:, : expected.shape[-1]], expected))


def compare_logits(actual: Tensor, expected: Tensor) -> LogitComparison:
    """Compare logits ``[seq, vocab]`` at every position."""
    cosines = [
        # in float64: over a large vocabulary float32 loses the digits that matter here
        float(torch.nn.functional.cosine_similarity(a.double(), b.double()).min())
        for a, b in zip(actual.split(_ROWS), expected.split(_ROWS), strict=True)
    ]
    return LogitComparison(
        num_tokens=expected.shape[0],
        max_difference=float((actual - expected).abs().max()),
        min_cosine=min(cosines),
        top_token_agreement=float((actual.argmax(-1) == expected.argmax(-1)).float().mean()),
    )


def _transformers_logits(folder: Path, token_ids: list[int]) -> Tensor:
    """``[seq, vocab]``; the model is gone before the next one is loaded."""
    model = auto_class(folder).from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    logits: Tensor = model(torch.tensor([token_ids])).logits[0]
    return logits


def _megatron_logits(folder: Path, checkpoint: Path, token_ids: list[int]) -> Tensor:
    num_tokens = len(token_ids)
    flags = common_flags(read_architecture(folder), Launch(), num_tokens, "float32")
    open_checkpoint(checkpoint)
    allow_extra_states()  # it was looked through just now
    (model,) = load_model(flags, checkpoint)
    from megatron_dasd.models.packed import forward, to_batch

    document = {"tokens": np.array(token_ids), "loss_mask": np.zeros(num_tokens)}
    row = packed_row([document], num_tokens)
    logits: Tensor = forward(model, to_batch(row), with_loss=False)[0].cpu()
    return logits


if __name__ == "__main__":
    run_program(main)
