"""A packed row is its documents, each alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.device.launch import launch


@pytest.mark.parametrize("model", ["llama", "qwen3", "qwen3_5"])
def test_loss_and_gradients_are_those_of_the_documents(
    model: str, workshop: Any, tmp_path: Path
) -> None:
    if model == "qwen3_5":
        workshop.add_delta_nets()
    payload = {
        "model": str(workshop.models[model]),
        "checkpoint": str(open_checkpoint(workshop.checkpoints[model]).folder),
        "data": str(workshop.data),
        "out": str(tmp_path / "figures.json"),
    }
    launch("tests.distributed.programs", payload, 1, tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert min(figures["documents"]) > 1
    for packed, apart in zip(figures["packed"], figures["apart"], strict=True):
        assert packed["loss"] == pytest.approx(apart["loss"], rel=1e-6)
        assert packed["grads"].keys() == apart["grads"].keys()
        for name, values in packed["grads"].items():
            wanted = torch.tensor(apart["grads"][name])
            assert (torch.tensor(values) - wanted).norm() <= 1e-6 * wanted.norm(), name
