"""The published configs of real models: every tensor of either side has its mapping, and its shape.

``tests/models/configs`` holds the ``config.json`` of the models of those names on the Hugging Face
hub (Qwen/..., meta-llama/..., HuggingFaceTB/..., openai/...).  Both sides are built on the meta
device, which keeps shapes and no numbers.
"""

import json
from math import prod
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion

from megatron_dasd.checkpoint.names import tensor_mappings
from megatron_dasd.device.launch import launch
from megatron_dasd.engines.auto_class import auto_class
from megatron_dasd.models.architecture import read_architecture

CONFIGS = Path(__file__).parents[1] / "models" / "configs"
NUM_PARAMETERS = {
    "SmolLM2-135M": 134_515_008,
    "Qwen3-4B": 4_022_468_096,
    "Qwen2.5-7B-Instruct": 7_615_616_512,
    "SmolLM3-3B": 3_075_098_624,
    # its text model, which is as large as Qwen3-4B
    "Qwen3-VL-4B-Instruct": 4_022_468_096,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen3-30B-A3B": 30_532_122_624,
}
"""As the model cards tell them: a wrong number in a config would show here."""


def hf_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the model's files, without numbers."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = auto_class(folder).from_config(config)
    # transformers keeps experts in one tensor in memory and apart in files
    tensors = dict(revert_weight_conversion(model, model.state_dict()))
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return tensors


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_no_tensor_is_left_over_on_either_side(name: str, tmp_path: Path) -> None:
    folder = CONFIGS / name
    theirs = {
        tensor_name: tensor
        for tensor_name, tensor in hf_tensors(folder).items()
        # of a multimodal model, only the text model is trained
        if not tensor_name.startswith("model.visual.")
    }
    assert sum(tensor.numel() for tensor in theirs.values()) == NUM_PARAMETERS[name]

    launch(
        "tests.distributed.shapes_program",
        {"model": str(folder), "out": str(tmp_path / "shapes.json")},
        num_ranks=1,
        log_dir=tmp_path,
    )
    ours = json.loads((tmp_path / "shapes.json").read_text())
    assert sum(map(prod, ours.values())) >= NUM_PARAMETERS[name]

    for mapping in tensor_mappings(read_architecture(folder)):
        parts = [theirs.pop(hf) for hf in mapping.hf]
        joined = mapping.join(parts)
        assert list(joined.shape) == ours.pop(mapping.megatron), mapping.megatron
        assert [part.shape for part in mapping.split(joined)] == [part.shape for part in parts]
    assert theirs == {}
    assert ours == {}
