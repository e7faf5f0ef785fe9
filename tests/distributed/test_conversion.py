"""Hugging Face to Megatron and back, and the logits on the way."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dasd.checkpoint import export_stage, verify_stage
from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.checkpoint.hf_folder import HfWeights
from megatron_dasd.checkpoint.seal import write_seal
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.config.training import ExportHf, Train, VerifyConversion
from megatron_dasd.errors import Stopped, UserError
from megatron_dasd.records import FilteredResponse, Message, Prompt, TokenLogprobs
from megatron_dasd.records_io import to_table
from megatron_dasd.student import scoring
from megatron_dasd.training import stage as train_stage


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
    assert figures["min_cosine"] > 1 - 1e-9
    assert figures["top_token_agreement"] == 1.0
    assert figures["num_tensors"] == len(before.names())
    assert figures["different"] == []


def test_a_trained_checkpoint_exports_from_two_tensor_parallel_ranks(workshop: Any) -> None:
    workshop.train("trained tp2", launch={"num_ranks": 2, "tensor_parallel": 2}, epochs=0.5)
    checkpoint = workshop.place / "trained tp2"
    exported = export(workshop, "exported tp2", checkpoint, "llama")
    assert verify(workshop, "verified tp2", exported, checkpoint)["max_difference"] < 1e-5
    # and it is another model than the one it came from
    with pytest.raises(UserError, match="logits differ from the checkpoint's by up to"):
        verify(workshop, "refused", workshop.models["llama"], checkpoint)


class Malicious:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


def test_a_poisoned_checkpoint_is_opened_by_nobody(workshop: Any, tmp_path: Path) -> None:
    owned, poisoned = tmp_path / "owned", tmp_path / "poisoned"
    shutil.copytree(workshop.checkpoints["llama"], poisoned)
    (metadata,) = poisoned.rglob(".metadata")
    metadata.write_bytes(pickle.dumps(Malicious(owned)))
    common = {"model": workshop.models["llama"], "checkpoint": poisoned}
    references = {"model": "model", "checkpoint": "checkpoint"}
    data = {"data": workshop.data, "responses": responses(workshop)}
    stages = (
        (train_stage.run, Train(kind="train", data="data", **references)),
        (scoring.run, ScoreStudent(kind="score_student", responses="responses", **references)),
        (export_stage.run, ExportHf(kind="export_hf", **references)),
        (
            verify_stage.run,
            VerifyConversion(kind="verify_conversion", responses="responses", **references),
        ),
    )
    for run, settings in stages:
        with pytest.raises(UserError, match=r"\.metadata: names posix\.system, which no checkp"):
            workshop.run(f"poisoned {settings.kind}", run, settings, **common, **data)
    flag = {"pretrained-checkpoint": str(poisoned / "checkpoint")}
    with pytest.raises(ValueError, match="pretrained-checkpoint follows from the setting checkp"):
        workshop.train("poisoned flag", megatron=flag)
    assert not owned.exists()


def test_training_does_not_go_on_from_a_poisoned_checkpoint(workshop: Any, tmp_path: Path) -> None:
    name, owned = "poisoned on the way", tmp_path / "owned"
    with pytest.raises(Stopped, match="training stopped at iteration 2"):
        workshop.train(name, megatron={"exit-interval": 2})
    (metadata,) = (workshop.place / name).rglob(".metadata")
    metadata.write_bytes(pickle.dumps(Malicious(owned)))
    write_seal(metadata.parent)  # who can write the one can write the other
    with pytest.raises(UserError, match=r"\.metadata: names posix\.system, which no checkpoint"):
        workshop.train(name)
    assert not owned.exists()


def test_a_training_stages_checkpoint_needs_no_other_folder(workshop: Any) -> None:
    layout = {"num_ranks": 4, "tensor_parallel": 2, "pipeline_parallel": 2}
    workshop.train("trained tp2 pp2", launch=layout, epochs=0.5, model="qwen3")
    checkpoint = open_checkpoint(workshop.place / "trained tp2 pp2")
    assert checkpoint.hf is not None
    out = workshop.place / "out of tp2 pp2"
    out.mkdir()
    done = export_stage.export_hf(checkpoint, checkpoint.hf, out, out / "logs", 5.0)
    assert done.converted.num_tensors == len(HfWeights(workshop.models["qwen3"]).names())
    compared = verify(workshop, "verified tp2 pp2", out, workshop.place / "trained tp2 pp2")
    assert compared["different"] == []
    assert compared["max_difference"] < 1e-5


@pytest.mark.slow
def test_a_distributed_optimizers_checkpoint(workshop: Any) -> None:
    """Its optimizer's state is another kind of pickle and tensor beside the model's."""
    name = "trained dp2"
    launch = {"num_ranks": 2, "distributed_optimizer": True}
    flags = {"ckpt-fully-parallel-save": True}
    workshop.train(name, launch=launch, epochs=0.5, megatron=flags)
    exported = export(workshop, f"exported {name}", workshop.place / name, "llama")
    figures = verify(workshop, f"verified {name}", exported, workshop.place / name)
    assert figures["different"] == []
    assert figures["max_difference"] < 1e-5
