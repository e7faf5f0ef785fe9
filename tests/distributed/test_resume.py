"""Training that stops and goes on: the same curve, bit for bit, as if it had not stopped."""

from typing import Any

import pytest

from megatron_dasd.errors import UserError
from tests.distributed.test_layouts import assert_same

HALF = 5


def steps(metrics: list[dict[str, Any]]) -> list[tuple[int, float, float]]:
    return [(m["iteration"], m["loss"], m["grad_norm"]) for m in metrics if "loss" in m]


def train_in_two(workshop: Any, name: str, first: Any, second: Any) -> list[dict[str, Any]]:
    with pytest.raises(UserError, match=f"training stopped at iteration {HALF} "):
        workshop.train(name, launch=first, megatron={"exit-interval": HALF})
    metrics: list[dict[str, Any]] = workshop.train(name, launch=second)
    return metrics


@pytest.mark.parametrize("distributed_optimizer", [False, True])
def test_the_curve_is_the_same_bit_for_bit(distributed_optimizer: bool, workshop: Any) -> None:
    launch = {"num_ranks": 2, "distributed_optimizer": distributed_optimizer}
    name = f"resumed {distributed_optimizer}"
    whole = workshop.train(f"{name}, undisturbed", launch=launch)
    metrics = train_in_two(workshop, name, launch, launch)
    assert len(steps(whole)) >= HALF + 9
    assert steps(metrics) == steps(whole)


def test_a_distributed_optimizer_goes_on_under_another_layout(workshop: Any) -> None:
    one = workshop.train("resumed on one rank")
    first = {"num_ranks": 2, "distributed_optimizer": True}
    second = {"num_ranks": 2, "pipeline_parallel": 2, "distributed_optimizer": True}
    metrics = train_in_two(workshop, "dp2 then pp2, distributed", first, second)
    assert_same(metrics, one, 1e-5)
