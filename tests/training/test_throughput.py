"""Operations and rates, worked out by hand."""

from argparse import Namespace
from typing import Any

import numpy as np
import pytest

from megatron_dasd.training.throughput import Throughput, flops, peak_flops

DENSE = Namespace(
    num_layers=2,
    hidden_size=8,
    num_attention_heads=4,
    num_query_groups=2,
    group_query_attention=True,
    kv_channels=3,
    ffn_hidden_size=10,
    num_experts=None,
    vocab_size=50,
    world_size=4,
)
# of a layer: query 8 x 12, key and value 8 x 6 each, output 12 x 8, MLP 3 x 8 x 10
WEIGHTS = 2 * (96 + 48 + 48 + 96 + 240) + 8 * 50


def test_operations_of_a_dense_model() -> None:
    # two documents of 5 and 2 tokens; each token and those before it: 12 channels, 2 layers
    assert flops(DENSE, np.array([5, 2])) == 6 * 7 * WEIGHTS + 6 * 2 * 12 * (25 + 4)
    assert flops(DENSE, np.array([], dtype=np.int64)) == 0


def test_operations_of_experts() -> None:
    args = Namespace(**vars(DENSE) | {"num_experts": 6, "moe_ffn_hidden_size": 4})
    args.moe_router_topk = 2
    weights = 2 * (288 + 2 * 3 * 8 * 4 + 8 * 6) + 8 * 50
    assert flops(args, np.array([3])) == 6 * 3 * weights + 6 * 2 * 12 * 9


class Rows:
    """Row r holds documents of r + 1 and 2 tokens, of 16 positions."""

    meta = Namespace(seq_length=16)

    def lengths(self, index: int) -> np.ndarray:
        return np.array([index + 1, 2])


def test_figures_of_a_step() -> None:
    throughput = Throughput(DENSE)
    rows: Any = Rows()
    throughput.begin(rows, lambda sample: sample if sample < 3 else None, first_sample=1)
    # rows 1 and 2, and one of padding
    figures = throughput.take(4, seconds=2.0)
    assert figures["tokens_per_second"] == (4 + 5) / 2
    assert figures["padding_share"] == pytest.approx(1 - 9 / 48)
    operations = flops(DENSE, np.array([2, 2, 3, 2]))
    assert figures["tflops_per_rank"] == pytest.approx(operations / 2 / 4 / 1e12)
    assert "mfu" not in figures  # no GPU
    assert throughput.take(5, seconds=1.0)["tokens_per_second"] == 0


def test_peaks_by_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("") is None
