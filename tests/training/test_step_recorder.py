"""Facts of steps and the metrics made of them: operations and rates, worked out by hand."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_dasd.models.architecture import Architecture, Experts
from megatron_dasd.models.families import Family
from megatron_dasd.models.flops import peak_flops
from megatron_dasd.training.metrics import METRICS, Step, computed, metric, training_flops
from megatron_dasd.training.step_recorder import StepRecorder

DENSE = Architecture(
    family=Family(),
    num_layers=2,
    hidden_size=8,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=3,
    ffn_hidden_size=10,
    vocab_size=50,
    max_position_embeddings=16,
    norm_epsilon=1e-6,
    rotary_base=10_000,
    tied_embeddings=False,
)
EXPERTS = replace(
    DENSE,
    experts=Experts(num_experts=6, experts_per_token=2, ffn_hidden_size=4, weights_sum_to_one=True),
)
# of a layer: query 8 x 12, key and value 8 x 6 each, output 12 x 8, MLP 3 x 8 x 10
WEIGHTS = 2 * (96 + 48 + 48 + 96 + 240) + 8 * 50


def test_operations_of_a_dense_model() -> None:
    # two documents of 5 and 2 tokens; each token and those before it: 12 channels, 2 layers
    assert training_flops(DENSE, np.array([5, 2])) == 6 * 7 * WEIGHTS + 6 * 2 * 12 * (25 + 4)
    assert training_flops(DENSE, np.array([], dtype=np.int64)) == 0


def test_operations_of_experts() -> None:
    weights = 2 * (288 + 2 * 3 * 8 * 4 + 8 * 6) + 8 * 50
    found = training_flops(EXPERTS, np.array([3]))
    assert found == 6 * 3 * weights + 6 * 2 * 12 * 9


class Rows:
    """Row r holds documents of r + 1 and 2 tokens, of 16 positions."""

    meta = Namespace(seq_length=16)

    def lengths(self, index: int) -> np.ndarray:
        return np.array([index + 1, 2])


def test_metrics_of_a_step() -> None:
    recorder = StepRecorder(DENSE, num_ranks=4)
    pack_of = {1: 1, 2: 2}.get  # rows 1 and 2, and then padding
    recorder.begin(Rows(), pack_of, first_sample=1)  # type: ignore[arg-type]
    figures = computed(recorder.step(4, seconds=2.0))
    assert figures["tokens_per_second"] == (4 + 5) / 2
    assert figures["padding_share"] == pytest.approx(1 - 9 / 48)
    operations = training_flops(DENSE, np.array([2, 2, 3, 2]))
    assert figures["tflops_per_rank"] == pytest.approx(operations / 2 / 4 / 1e12)
    # no GPU, nothing quantised, no worker
    assert figures.keys() == {"tokens_per_second", "padding_share", "tflops_per_rank"}
    assert computed(recorder.step(5, seconds=1.0))["tokens_per_second"] == 0


def test_metrics_that_only_some_steps_have() -> None:
    rounding = {"input": {"saturated": 0.0, "flushed": 0.5, "noise": 0.25}}
    step = Step(
        seconds=2.0,
        lengths=np.array([4]),
        num_positions=8,
        architecture=EXPERTS,
        num_ranks=1,
        peak_flops=1e6,
        peak_bytes=3 * 2**29,
        rounding=rounding,
        on_policy_ages=[3, 5],
    )
    figures = computed(step)
    assert figures.keys() == METRICS.keys()
    assert figures["mfu"] == training_flops(EXPERTS, np.array([4])) / 2 / 1e6
    assert figures["peak_memory_gib"] == 1.5
    assert figures["padding_dispatched"] == (8 - 4) * 2
    assert figures["fp8"] == rounding
    assert (figures["on_policy_rows"], figures["on_policy_age"]) == (2, 4.0)


def test_a_metric_is_registered_once_under_its_functions_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METRICS, "documents", METRICS["mfu"])

    def documents(step: Step) -> int:
        return len(step.lengths)

    with pytest.raises(ValueError, match="there is a metric documents already"):
        metric("documents", "documents of the step")(documents)


def test_every_metric_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    for found in METRICS.values():
        assert f"`{found.name}`" in text
        assert f"| {found.description}" in text


def test_peaks_by_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("") is None
