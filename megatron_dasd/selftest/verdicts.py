"""One line of the self-test's result, and what all lines say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from megatron_dasd.planning.memory import Memory
from megatron_dasd.selftest.golden import TOLERANCES, distance
from megatron_dasd.selftest.loss_forms import Shape, Timing
from megatron_dasd.training.metrics_file import StepLine

State = Literal["passed", "failed", "skipped"]
_GIB = 2**30
_WORKSPACES = 1.0
"""GiB that kernels and collectives keep beside what the plan counts."""
_WARM_UP_STEPS = 5
"""First steps, which compile and choose kernels: their speed says nothing."""


@dataclass(frozen=True)
class Verdict:
    """One line."""

    check: str
    state: State
    found: str
    """What was measured, or why it was not."""


def of_losses(
    check: str, precision: str, found: Sequence[float], known: Sequence[float]
) -> Verdict:
    """Whether a training's losses are the known ones."""
    apart, most = distance(found, known), TOLERANCES[precision]
    if len(found) != len(known):
        return Verdict(check, "failed", f"{len(found)} steps of {len(known)}")
    text = f"losses within {apart:.1e} of the known ones, {most:g} allowed"
    return Verdict(check, "passed" if apart <= most else "failed", text)


def of_logprob(check: str, dtype: str, found: float, known: float) -> Verdict:
    """Whether the mean log-probability of a scoring is the known one."""
    apart, most = distance([found], [known]), TOLERANCES[dtype]
    text = (
        f"mean log-probability {found:.4f}, within {apart:.1e} of the known one, {most:g} allowed"
    )
    return Verdict(check, "passed" if apart <= most else "failed", text)


def speed(lines: Sequence[StepLine]) -> str:
    """Rate and share of the GPU's peak, the median of the steps after the first."""
    warm = lines[_WARM_UP_STEPS:]
    text = f"{median(line.tokens_per_second for line in warm):,.0f} tokens/s"
    shares = [line.mfu for line in warm if line.mfu is not None]
    return f"{text}, MFU {median(shares):.2%}" if shares else text


def of_memory(check: str, lines: Sequence[StepLine], planned: Memory) -> Verdict:
    """Whether the peak of allocated memory is at most the plan's, workspaces aside."""
    plan = planned.total / _GIB
    peaks = [line.peak_memory_gib for line in lines if line.peak_memory_gib is not None]
    if not peaks:
        return Verdict(check, "skipped", f"{plan:.2f} GiB planned; measured on a GPU only")
    text = f"{max(peaks):.2f} GiB at the peak, {plan:.2f} planned and {_WORKSPACES:g} of workspaces"
    return Verdict(check, "passed" if max(peaks) <= plan + _WORKSPACES else "failed", text)


def of_loss_form(shape: Shape, timing: Timing) -> Verdict:
    """Whether a form of the chunked loss has torch's gradient, and the time of both."""
    is_right = timing.gradient_distance <= timing.tolerance
    text = (
        f"{timing.seconds:.4f} s, {timing.seconds / timing.peer_seconds:.2f} x the whole logits' "
        f"({shape}); gradient within {timing.gradient_distance:.1e}"
    )
    return Verdict(f"loss, {timing.form}", "passed" if is_right else "failed", text)
