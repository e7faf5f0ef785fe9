"""Configs of real models' sizes: every tensor of either side has its mapping, and its shape.

``tests/models/configs`` holds the ``config.json`` of the models of those names on the Hugging Face
hub (Qwen/..., meta-llama/..., HuggingFaceTB/..., openai/...).  Those of SmolLM3-3B and
Qwen3-VL-4B-Instruct are not the files from the hub: they were written for this test, with the
fields of the config classes in transformers and the sizes of the models.  Both sides are built on
the meta device, which keeps shapes and no numbers.
"""

import json
from math import prod
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
)
from transformers.core_model_loading import revert_weight_conversion

from megatron_dasd.checkpoint.names import tensor_mappings
from megatron_dasd.device.launch import launch
from megatron_dasd.engines.auto_class import auto_class
from megatron_dasd.models.hf_config import read_architecture
from tests.sampled import left_out

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
"""Parameters by the model cards, where the config is the hub's: a wrong number would show here."""


CLASS_DEFAULTS: dict[str, PreTrainedConfig] = {
    # whose docstrings name these models as those of the defaults
    "Qwen3.5-9B": Qwen3_5TextConfig(),
    "Qwen3.5-35B-A3B": Qwen3_5MoeTextConfig(),
    # of the sizes of this model
    "Qwen3.5-27B": Qwen3_5TextConfig(
        hidden_size=5120,
        intermediate_size=17408,
        num_hidden_layers=64,
        num_attention_heads=24,
        linear_num_value_heads=48,
    ),
}
"""Text models of multimodal ones: the language model alone, as transformers builds and saves it."""


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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "Qwen3-30B-A3B" else name
        for name in NUM_PARAMETERS
    ],
)
def test_no_tensor_is_left_over_on_either_side(name: str, tmp_path: Path) -> None:
    folder = CONFIGS / name
    theirs = {
        tensor_name: tensor
        for tensor_name, tensor in hf_tensors(folder).items()
        # of a multimodal model, only the text model is trained
        if not tensor_name.startswith("model.visual.")
    }
    assert sum(tensor.numel() for tensor in theirs.values()) == NUM_PARAMETERS[name]
    check_both_sides(folder, theirs, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        left_out("Qwen3.5-9B"),
        pytest.param("Qwen3.5-35B-A3B", marks=pytest.mark.slow),
        left_out("Qwen3.5-27B"),
    ],
)
def test_no_tensor_of_a_text_model_is_left_over(name: str, tmp_path: Path) -> None:
    config = CLASS_DEFAULTS[name]
    config.architectures = ["Qwen3_5MoeForCausalLM" if "A3B" in name else "Qwen3_5ForCausalLM"]
    config.save_pretrained(tmp_path)
    theirs = hf_tensors(tmp_path)
    billions = float(name.split("-")[1].removesuffix("B"))
    assert sum(tensor.numel() for tensor in theirs.values()) / 1e9 == pytest.approx(
        billions, rel=0.1
    )
    check_both_sides(tmp_path, theirs, tmp_path)


def check_both_sides(folder: Path, theirs: dict[str, torch.Tensor], place: Path) -> None:
    """Every tensor of either side has its mapping, and its shape."""
    number = sum(tensor.numel() for tensor in theirs.values())
    launch(
        "tests.distributed.shapes_program",
        {"model": str(folder), "out": str(place / "shapes.json")},
        num_ranks=1,
        log_dir=place,
    )
    ours = json.loads((place / "shapes.json").read_text())
    assert sum(map(prod, ours.values())) >= number

    for mapping in tensor_mappings(read_architecture(folder)):
        parts = [theirs.pop(hf) for hf in mapping.hf]
        joined = mapping.join(parts)
        assert list(joined.shape) == ours.pop(mapping.megatron), mapping.megatron
        assert [part.shape for part in mapping.split(joined)] == [part.shape for part in parts]
    assert theirs == {}
    assert ours == {}
