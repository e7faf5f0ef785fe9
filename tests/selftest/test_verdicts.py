import math
from dataclasses import replace

import pytest

from megatron_dasd.planning.memory import Memory
from megatron_dasd.selftest.golden import TOLERANCES, distance, read_golden
from megatron_dasd.selftest.loss_forms import ON_CPU, Timing
from megatron_dasd.selftest.plan import NUM_STEPS, PRECISIONS
from megatron_dasd.selftest.verdicts import of_logprob, of_loss_form, of_losses, of_memory, speed
from megatron_dasd.training.metrics_file import StepLine

GIB = 2**30
PLANNED = Memory(weights=GIB, gradients=GIB, optimizer=0, activations=0, loss=0)


def line(**figures: float) -> StepLine:
    return StepLine(iteration=1, loss=1.0, **figures)  # type: ignore[arg-type]


def test_known_losses_are_those_of_every_step_and_fall() -> None:
    golden = read_golden()
    assert golden.losses.keys() == {*PRECISIONS}
    for losses in golden.losses.values():
        assert len(losses) == NUM_STEPS
        assert losses[-1] < 0.7 * losses[0]
    assert golden.logprobs.keys() == {"float32", "bfloat16"}
    assert all(value < 0 for value in golden.logprobs.values())


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_precisions_differ_by_less_than_a_tolerance_and_by_more_than_float32s(
    precision: str,
) -> None:
    """A training whose losses were float32's would not pass for another precision's by bits."""
    losses = read_golden().losses
    apart = distance(losses[precision], losses["fp32"])
    assert TOLERANCES["fp32"] < apart < TOLERANCES[precision]


def test_the_largest_distance_of_a_step() -> None:
    assert distance([2.0, 3.0], [2.0, 4.0]) == 0.25
    assert distance([2.0], [2.0, 4.0]) == math.inf
    assert distance([1.0, math.nan], [1.0, 1.0]) == math.inf


@pytest.mark.parametrize(("second", "state"), [(2.00002, "passed"), (2.0001, "failed")])
def test_losses_pass_within_the_precisions_tolerance(second: float, state: str) -> None:
    verdict = of_losses("train", "fp32", [3.0, second], [3.0, 2.0])
    assert verdict.state == state
    assert verdict.found.endswith("of the known ones, 2e-05 allowed")


def test_losses_of_too_few_steps_fail() -> None:
    verdict = of_losses("train", "bf16", [3.0], [3.0, 2.0])
    assert (verdict.state, verdict.found) == ("failed", "1 steps of 2")


def test_log_probabilities() -> None:
    assert of_logprob("score", "float32", -2.001, -2.0).state == "passed"
    assert of_logprob("score", "float32", -2.1, -2.0).state == "failed"


def test_speed_leaves_the_first_steps_out() -> None:
    slow, fast = line(tokens_per_second=1.0), line(tokens_per_second=2000.0)
    assert speed([slow] * 5 + [fast] * 3) == "2,000 tokens/s"
    with_peak = fast.model_copy(update={"mfu": 0.25})
    assert speed([slow] * 5 + [with_peak]) == "2,000 tokens/s, MFU 25.00%"


def test_memory_beside_the_plans() -> None:
    assert of_memory("memory", [line(), line()], PLANNED).state == "skipped"
    assert of_memory("memory", [line(peak_memory_gib=2.9)], PLANNED).state == "passed"
    verdict = of_memory("memory", [line(peak_memory_gib=3.1), line()], PLANNED)
    assert verdict.state == "failed"
    assert verdict.found == "3.10 GiB at the peak, 2.00 planned and 1 of workspaces"


def test_a_loss_of_another_gradient_fails() -> None:
    timing = Timing("forward", 1.5, 1.0, gradient_distance=1e-7, tolerance=1e-5)
    assert of_loss_form(ON_CPU, timing).state == "passed"
    assert "1.5000 s, 1.50 x" in of_loss_form(ON_CPU, timing).found
    assert of_loss_form(ON_CPU, replace(timing, gradient_distance=1e-4)).state == "failed"
