"""Hugging Face to Megatron and back, and the logits on the way."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dasd.checkpoint import export_stage, verify_stage
from megatron_dasd.checkpoint.hf_folder import HfWeights
from megatron_dasd.config.training import ExportHf, VerifyConversion
from megatron_dasd.errors import UserError
from megatron_dasd.records import FilteredResponse, Message, Prompt, TokenLogprobs
from megatron_dasd.records_io import to_table


def export(workshop: Any, name: str, checkpoint: Path, model: str) -> Path:
    settings = ExportHf(kind="export_hf", model="model", checkpoint="checkpoint")
    inputs = {"model": workshop.models[model], "checkpoint": checkpoint}
    folder: Path = workshop.run(name, export_stage.run, settings, **inputs).path / "model"
    return folder


def responses(workshop: Any) -> Path:
    import pyarrow.parquet as pq

    text = "the quick brown fox jumps over the lazy dog " * 3
    record = FilteredResponse(
        prompt=Prompt(prompt_id="p", messages=[Message(role="user", content="say")]),
        temperature=1.0,
        candidate=0,
        seed=0,
        model="teacher",
        text=text,
        tokens=TokenLogprobs(
            token_ids=[1] * len(text), num_bytes=[1] * len(text), logprobs=[-1.0] * len(text)
        ),
        finish_reason="stop",
        output=text,
        output_spans=[],
        text_spans=[],
    )
    path: Path = workshop.place / "text.parquet"
    pq.write_table(to_table(FilteredResponse, [record], {}), path)
    return path


def verify(workshop: Any, name: str, exported: Path, checkpoint: Path) -> dict[str, Any]:
    settings = VerifyConversion(
        kind="verify_conversion",
        model="model",
        checkpoint="checkpoint",
        responses="responses",
        num_tokens=100,
    )
    inputs = {"model": exported, "checkpoint": checkpoint, "responses": responses(workshop)}
    folder = workshop.run(name, verify_stage.run, settings, **inputs)
    figures: dict[str, Any] = json.loads((folder.path / "comparison.json").read_text())
    return figures


@pytest.mark.parametrize("model", ["llama", "qwen3"])
def test_round_trip_is_bit_for_bit(model: str, workshop: Any) -> None:
    exported = export(workshop, f"exported {model}", workshop.checkpoints[model], model)
    before, after = HfWeights(workshop.models[model]), HfWeights(exported)
    assert after.names() == before.names()
    assert all(torch.equal(after.read(n), before.read(n)) for n in before.names())
    figures = verify(workshop, f"verified {model}", exported, workshop.checkpoints[model])
    assert figures["num_tokens"] == 100
    assert figures["max_difference"] < 1e-5
    assert figures["top_token_agreement"] == 1.0


def test_a_trained_checkpoint_exports_from_two_tensor_parallel_ranks(workshop: Any) -> None:
    workshop.train("trained tp2", launch={"num_ranks": 2, "tensor_parallel": 2}, epochs=0.5)
    checkpoint = workshop.place / "trained tp2"
    exported = export(workshop, "exported tp2", checkpoint, "llama")
    assert verify(workshop, "verified tp2", exported, checkpoint)["max_difference"] < 1e-5
    # and it is another model than the one it came from
    with pytest.raises(UserError, match="logits differ from the checkpoint's by up to"):
        verify(workshop, "refused", workshop.models["llama"], checkpoint)
