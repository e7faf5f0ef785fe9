"""Every layout, with and without the distributed optimizer, against one rank over 20 steps.

CI runs a sample; ``make test-all`` runs them all.
"""

from typing import Any

import pytest

from tests.distributed.test_layouts import EXPERT_TOLERANCE, TOLERANCE, assert_same
from tests.sampled import sampled

EPOCHS = 4.0
NO_SEQUENCE_PARALLEL = {"megatron": {"sequence-parallel": False}}
RECOMPUTE = {
    "megatron": {
        "recompute-granularity": "full",
        "recompute-method": "uniform",
        "recompute-num-layers": 1,
    }
}


def layout(num_ranks: int, **sizes: int) -> dict[str, Any]:
    return {"launch": {"num_ranks": num_ranks, **sizes}}


DENSE: dict[str, dict[str, Any]] = {
    "tp2": layout(2, tensor_parallel=2) | NO_SEQUENCE_PARALLEL,
    "tp2 sp": layout(2, tensor_parallel=2),
    "pp2": layout(2, pipeline_parallel=2),
    "pp4": layout(4, pipeline_parallel=4),
    "cp2": layout(2, context_parallel=2),
    "dp2": layout(2),
    "tp2 pp2": layout(4, tensor_parallel=2, pipeline_parallel=2),
    "tp2 cp2": layout(4, tensor_parallel=2, context_parallel=2),
    "vpp": layout(2, pipeline_parallel=2, virtual_pipeline=2),
    "recompute": RECOMPUTE,
    "all together": layout(
        8, tensor_parallel=2, pipeline_parallel=2, context_parallel=2, virtual_pipeline=2
    )
    | RECOMPUTE,
}
EXPERTS: dict[str, dict[str, Any]] = {
    "ep2": layout(2, expert_parallel=2),
    "all together": layout(
        8, tensor_parallel=2, pipeline_parallel=2, context_parallel=2, expert_parallel=2
    ),
}

CASES = [
    (model, name, distributed_optimizer)
    for model, names in (("qwen3", DENSE), ("qwen3_moe", EXPERTS))
    for name in names
    for distributed_optimizer in (False, True)
]
IN_CI = [("qwen3", "all together", True)]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_rank(workshop: Any) -> dict[str, list[dict[str, Any]]]:
    """Metrics by model."""
    runs = {
        model: workshop.train(f"one rank of {model}", model, epochs=EPOCHS)
        for model in ("qwen3", "qwen3_moe")
    }
    assert all(sum("loss" in line for line in lines) >= 20 for lines in runs.values())
    return runs


@pytest.mark.parametrize(
    ("model", "name", "distributed_optimizer"),
    sampled(CASES, 3, always=IN_CI),
)
def test_twenty_steps_equal_one_rank(
    model: str, name: str, distributed_optimizer: bool, workshop: Any, one_rank: Any
) -> None:
    changes = dict((DENSE if model == "qwen3" else EXPERTS)[name])
    launch = changes.pop("launch", {}) | {"distributed_optimizer": distributed_optimizer}
    run = f"matrix {model} {name} {distributed_optimizer}"
    metrics = workshop.train(run, model, launch=launch, epochs=EPOCHS, **changes)
    tolerance = TOLERANCE if model == "qwen3" else EXPERT_TOLERANCE
    assert_same(metrics, one_rank[model], tolerance)
