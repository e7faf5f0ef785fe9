"""Windows and layers without rotation, as the classes of transformers have them."""

from typing import Any

import pytest
from transformers import Qwen2Config, Qwen3Config, SmolLM3Config

from megatron_dasd.models.layer_types import read_rotated, read_window

LAYERS = {"num_hidden_layers": 6}


@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize(
    "fields",
    [
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 4},
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 6},
        {"use_sliding_window": False, "sliding_window": 5, "max_window_layers": 2},
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["full_attention", "sliding_attention"] * 3,
        },
    ],
)
def test_windows_are_those_of_transformers(kind: Any, fields: dict[str, Any]) -> None:
    config = kind(**LAYERS, **fields)
    window, windowed = read_window(LAYERS | fields, "", ())
    slides = tuple(x == "sliding_attention" for x in config.layer_types)
    assert windowed == (slides if any(slides) else ())
    assert window == (config.sliding_window if any(slides) else None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"no_rope_layer_interval": 3},
        {"no_rope_layers": [0, 1, 1, 1, 0, 1]},
        {"use_sliding_window": True, "sliding_window": 7},
    ],
)
def test_layers_of_a_smollm3_are_those_of_transformers(fields: dict[str, Any]) -> None:
    config = SmolLM3Config(pad_token_id=0, **LAYERS, **fields)
    rotated = read_rotated(LAYERS | fields, "")
    assert rotated == tuple(map(bool, config.no_rope_layers))
    window, windowed = read_window(LAYERS | fields, "", rotated)
    slides = [x == "sliding_attention" for x in config.layer_types]
    assert list(windowed) == (slides if window else [])
    assert window == config.sliding_window
