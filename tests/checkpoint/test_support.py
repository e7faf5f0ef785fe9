"""What is said of a model before it is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from megatron_dasd.checkpoint.names import tensor_mappings
from megatron_dasd.checkpoint.support import examine
from megatron_dasd.commands.check import main
from megatron_dasd.models.hf_config import read_architecture

TEXT = {
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 20,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True, **TEXT}
QWEN3_VL = {"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": TEXT}


def write(folder: Path, config: dict[str, Any], *others: str, without: str = "") -> Path:
    """A folder whose files hold the config's tensors but one, and others beside them."""
    (folder / "config.json").write_text(json.dumps(config))
    mappings = tensor_mappings(read_architecture(folder))
    names = {name for mapping in mappings for name in mapping.hf} - {without}
    save_file({name: torch.zeros(1) for name in {*names, *others}}, folder / "model.safetensors")
    return folder


def test_a_model_that_can_be_trained(tmp_path: Path, capsys: Any) -> None:
    write(tmp_path, LLAMA, "model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight")
    found = examine(tmp_path)
    assert found.is_supported
    assert (found.missing, found.homeless, found.weights) == ([], [], "")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("LlamaForCausalLM: can be trained\n  2 layers, hid")


def test_tensors_that_are_missing_and_that_have_no_home(tmp_path: Path) -> None:
    norm = "model.norm.weight"
    found = examine(write(tmp_path, LLAMA, "model.layers.0.self_attn.sinks", without=norm))
    assert not found.is_supported
    assert found.missing == [norm]
    assert found.homeless == ["model.layers.0.self_attn.sinks"]


def test_of_a_multimodal_model_the_rest_is_carried_along(tmp_path: Path) -> None:
    folder = write(tmp_path, QWEN3_VL, "model.visual.x", "model.language_model.layers.0.y")
    found = examine(folder)
    assert found.carried == ["model.visual.x"]
    assert found.homeless == ["model.language_model.layers.0.y"]


def test_all_that_a_config_lacks_is_said_at_once(tmp_path: Path, capsys: Any) -> None:
    config = LLAMA | {"mlp_bias": True, "hidden_size": 0, "logit_scale": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    problems = examine(tmp_path).problems
    assert [problem.split("field ")[1].split(" ")[0] for problem in problems] == [
        "logit_scale",
        "hidden_size:",
        "mlp_bias:",
    ]
    assert main([str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == problems


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "GptOssForCausalLM"])
def test_a_family_without_a_row(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"architectures": [name]}))
    found = examine(tmp_path)
    assert not found.is_supported
    assert f"field architectures: {name}: " in found.problems[0]
