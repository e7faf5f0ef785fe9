"""What the stages of the dry run read: packed rows of the examples' length, and a checkpoint.

The checkpoint is a tiny model's, imported by the real stage; from it a stage learns that there is
one.  What it holds takes no part in the shapes of a case.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, Qwen3_5TextConfig, Qwen3Config, Qwen3MoeConfig

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint import import_stage
from megatron_dasd.config.training import ImportHf
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.records import FilteredResponse, Message, Prompt, TokenLogprobs
from megatron_dasd.records_io import to_table
from megatron_dasd.sources.random_model import byte_tokenizer

SEQ_LENGTH = 65536
PACK_ALIGN = 64
LENGTHS = (13_000,) * 5
"""Tokens of the documents of a row, no multiples of ``PACK_ALIGN``; all alike, so that rows are."""
NUM_ROWS = 64
_VOCAB = 151936


def write_rows(
    folder: Path,
    num_rows: int = NUM_ROWS,
    lengths: Sequence[int] = LENGTHS,
    vocab_size: int = _VOCAB,
) -> None:
    """Rows like those of the examples, all alike."""
    folder.mkdir()
    data_format = DataFormat(SEQ_LENGTH, PACK_ALIGN, vocab_size, vocab_size - 1)
    writer = ShardWriter(folder, data_format)
    for row in range(num_rows):
        for number, length in enumerate(lengths):
            mask = np.ones(length, np.uint8)
            mask[0] = 0
            writer.add(f"{row}-{number}", {"tokens": np.ones(length, np.int32), "loss_mask": mask})
    writer.close()
    write_data(folder, [folder], data_format)


TOPK = """
name: topk
run_dir: runs/topk
stages:
  top: {kind: score_topk, data: tiny_data, model: tiny, teacher: tiny, top_k: 8}
"""
"""A pipeline of the one program that no example has."""


def tiny_model(folder: Path, experts: bool = False) -> None:
    """A random Qwen3 in bfloat16, two layers."""
    tokenizer = byte_tokenizer("abcdefghijklmnopqrstuvwxyz ")
    torch.manual_seed(0)
    kind, more = Qwen3Config, {}
    if experts:
        kind = Qwen3MoeConfig
        more = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=SEQ_LENGTH,
        tie_word_embeddings=False,
        **more,
    )
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_delta_nets(folder: Path) -> None:
    """A random Qwen3.5 in bfloat16, a layer of each kind."""
    tokenizer = byte_tokenizer("abcdefghijklmnopqrstuvwxyz ")
    config = Qwen3_5TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        linear_num_key_heads=8,
        linear_num_value_heads=16,
        linear_key_head_dim=16,
        linear_value_head_dim=32,
        layer_types=["linear_attention", "full_attention"],
        max_position_embeddings=SEQ_LENGTH,
    )
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def import_model(model: Path, place: Path) -> None:
    """By the real stage, on the CPU."""
    settings = ImportHf(kind="import_hf", model="model")
    with StageFolder(place, "import", settings.kind, {}, {}) as folder:
        folder.finish(figures=import_stage.run(settings, {"model": model}, folder))


def write_responses(folder: Path) -> None:
    """Three responses that a filter has kept."""
    folder.mkdir()
    records = [_response(number) for number in range(3)]
    pq.write_table(to_table(FilteredResponse, records, {}), folder / "part-00000.parquet")


def _response(number: int) -> FilteredResponse:
    text = "the answer is two" * (number + 1)
    return FilteredResponse(
        prompt=Prompt(
            prompt_id=str(number), messages=[Message(role="user", content="one and one")]
        ),
        temperature=1.0,
        candidate=0,
        seed=0,
        model="teacher",
        text=text,
        tokens=TokenLogprobs(
            token_ids=list(text.encode()), num_bytes=[1] * len(text), logprobs=[-1.0] * len(text)
        ),
        finish_reason="stop",
        output=text,
        output_spans=[],
        text_spans=[],
    )
