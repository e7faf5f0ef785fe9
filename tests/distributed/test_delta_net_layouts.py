"""Training with linear attention is the same under every layout, on real processes over gloo."""

from typing import Any

import pytest

from tests.distributed.test_layouts import EXPERT_TOLERANCE, assert_same
from tests.sampled import sampled

LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"launch": {"num_ranks": 2, "tensor_parallel": 2}},
    "pp2": {"launch": {"num_ranks": 2, "pipeline_parallel": 2}},
    "cp2": {"launch": {"num_ranks": 2, "context_parallel": 2}},
    "tp2 pp2 cp2": {
        "launch": {
            "num_ranks": 8,
            "tensor_parallel": 2,
            "pipeline_parallel": 2,
            "context_parallel": 2,
        }
    },
    "ep2": {"launch": {"num_ranks": 2, "expert_parallel": 2}},
    "recomputed": {
        "megatron": {
            "recompute-granularity": "full",
            "recompute-method": "uniform",
            "recompute-num-layers": 1,
        }
    },
}
CASES = [
    (model, layout)
    for model in ("qwen3_5", "qwen3_5_moe")
    for layout in LAYOUTS
    if model == "qwen3_5_moe" or layout != "ep2"
]


@pytest.fixture(scope="module")
def shop(workshop: Any) -> Any:
    workshop.add_delta_nets()
    return workshop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layout"), sampled(CASES, 2, always=[("qwen3_5", "cp2"), ("qwen3_5_moe", "ep2")])
)
def test_layout_equals_one_rank(model: str, layout: str, shop: Any) -> None:
    alone = f"{model} alone"
    if not (shop.place / alone).exists():
        shop.train(alone, model, epochs=5)
    expected = shop.metrics(alone)
    assert len([line for line in expected if "loss" in line]) >= 20
    metrics = shop.train(f"{model} {layout}", model, epochs=5, **LAYOUTS[layout])
    assert_same(metrics, expected, EXPERT_TOLERANCE if "moe" in model else 2e-6)
