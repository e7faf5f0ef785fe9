"""The self-test of ``tools/doctor.py --train`` on this machine's GPUs, a test for each question."""

import pytest

from megatron_dasd.precision.requirements import refusal
from megatron_dasd.selftest.plan import PRECISIONS
from megatron_dasd.selftest.run import self_test
from megatron_dasd.selftest.verdicts import Verdict


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[Verdict]:
    """All verdicts; the test itself is run once."""
    return self_test(tmp_path_factory.mktemp("selftest") / "work", [])


def check(verdicts: list[Verdict], beginning: str) -> None:
    found = [verdict for verdict in verdicts if verdict.check.startswith(beginning)]
    assert found
    assert [verdict for verdict in found if verdict.state != "passed"] == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_losses_are_those_of_the_cpu(verdicts: list[Verdict], precision: str) -> None:
    """On one GPU, and on all of them: packed rows through cuDNN's kernels, FP8 through its own."""
    reason = refusal(precision)  # type: ignore[arg-type]
    if reason:
        pytest.skip(reason)
    check(verdicts, f"train {precision},")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_is_at_most_the_plans(verdicts: list[Verdict], precision: str) -> None:
    reason = refusal(precision)  # type: ignore[arg-type]
    if reason:
        pytest.skip(reason)
    check(verdicts, f"memory {precision},")


@pytest.mark.parametrize("what", ["killed and resumed", "score", "export", "loss"])
def test_what_follows_training(verdicts: list[Verdict], what: str) -> None:
    check(verdicts, what)
