from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3_5Config,
    Qwen3_5TextConfig,
    Qwen3VLConfig,
)

from megatron_dasd.engines.auto_class import auto_class


@pytest.mark.parametrize(
    ("kind", "architecture", "expected"),
    [
        (LlamaConfig, "LlamaForCausalLM", AutoModelForCausalLM),
        (Qwen3VLConfig, "Qwen3VLForConditionalGeneration", AutoModelForImageTextToText),
        (Qwen3_5TextConfig, "Qwen3_5ForCausalLM", AutoModelForCausalLM),
        # transformers loads this config by either class; the tensors' names are one class's
        (Qwen3_5Config, "Qwen3_5ForConditionalGeneration", AutoModelForImageTextToText),
        (Qwen3_5Config, "Qwen3_5ForCausalLM", AutoModelForCausalLM),
    ],
)
def test_class_that_wrote_the_weights(
    kind: type[PreTrainedConfig], architecture: str, expected: Any, tmp_path: Path
) -> None:
    kind(architectures=[architecture]).save_pretrained(tmp_path)
    assert auto_class(tmp_path) is expected
