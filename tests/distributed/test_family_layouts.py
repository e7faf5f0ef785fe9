"""Twenty steps of the families whose masks, positions or checkpoints are their own, by layout."""

from typing import Any

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3VLConfig,
    SmolLM3Config,
)

from tests.distributed.conftest import SHAPE
from tests.distributed.test_layouts import TOLERANCE, assert_same
from tests.sampled import sampled

EPOCHS = 4.0
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"num_ranks": 2, "tensor_parallel": 2},
    "pp2": {"num_ranks": 2, "pipeline_parallel": 2},
    "cp2": {"num_ranks": 2, "context_parallel": 2},
    # more ranks than key-value heads, and a pipeline with uneven ends
    "tp4": {"num_ranks": 4, "tensor_parallel": 4},
    "pp2 uneven": {"num_ranks": 2, "pipeline_parallel": 2, "last_stage_layers": 1},
    "tp2 pp2 cp2": {
        "num_ranks": 8,
        "tensor_parallel": 2,
        "pipeline_parallel": 2,
        "context_parallel": 2,
    },
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.5,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 5}
VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": SHAPE["hidden_size"],
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama biases": (LlamaConfig, {"attention_bias": True}),
    "qwen2 windows": (Qwen2Config, {"max_window_layers": 2, **WINDOW}),
    "qwen3 yarn": (Qwen3Config, {"head_dim": 16, "rope_parameters": YARN}),
    "smollm3": (SmolLM3Config, {"no_rope_layers": [1, 0, 1, 1], "pad_token_id": 0, **WINDOW}),
    "qwen3_vl": (Qwen3VLConfig, {"head_dim": 16}),
}
CASES = [(model, layout) for model in CONFIGS for layout in LAYOUTS]
IN_CI = [("smollm3", "cp2")]

pytestmark = pytest.mark.slow


def one_rank(workshop: Any, name: str) -> list[dict[str, Any]]:
    """Metrics of a family's model on one rank, made when they are first asked for."""
    if name not in workshop.models:
        kind, fields = CONFIGS[name]
        fields = {"vocab_size": len(workshop.tokenizer), **SHAPE, **fields}
        if kind is Qwen3VLConfig:
            config = Qwen3VLConfig(text_config=fields, vision_config=VISION)
            model = AutoModelForImageTextToText.from_config(config)
        else:
            model = AutoModelForCausalLM.from_config(kind(**fields))
        workshop.add_model(name, model)
        workshop.train(f"one rank of {name}", name, epochs=EPOCHS)
    metrics: list[dict[str, Any]] = workshop.metrics(f"one rank of {name}")
    assert sum("loss" in line for line in metrics) >= 20
    return metrics


@pytest.mark.parametrize(("name", "layout"), sampled(CASES, 1, always=IN_CI))
def test_twenty_steps_equal_one_rank(name: str, layout: str, workshop: Any) -> None:
    expected = one_rank(workshop, name)
    metrics = workshop.train(f"{name} under {layout}", name, launch=LAYOUTS[layout], epochs=EPOCHS)
    assert_same(metrics, expected, TOLERANCE)
