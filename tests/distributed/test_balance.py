"""What the losses of an expert router weigh: neither mask, padding nor layout changes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.test_layouts import EXPERT_TOLERANCE

COEFFICIENT = 1e5
"""So large that nothing else shows in the gradient's norm."""
STILL = {"lr": 1e-9, "min_lr": 0.0, "clip_grad": 0.0}
BALANCED = STILL | {"moe_aux_loss_coeff": COEFFICIENT}
SMALL_LOGITS = STILL | {"megatron": {"moe-z-loss-coeff": 100.0}}
LAYOUTS = {
    "dp2": {"num_ranks": 2},
    "tp2": {"num_ranks": 2, "tensor_parallel": 2},
    "cp2": {"num_ranks": 2, "context_parallel": 2},
    "pp2": {"num_ranks": 2, "pipeline_parallel": 2},
    "ep2": {"num_ranks": 2, "expert_parallel": 2},
    "tp2 pp2": {"num_ranks": 4, "tensor_parallel": 2, "pipeline_parallel": 2},
}
NUM_ROWS = 12


def one_a_row(targets: Callable[[int], int]) -> list[dict[str, Any]]:
    """Documents of 33 to 39 tokens, no two of which fit into a row.

    Args:
        targets: of a length, how many of its last tokens have a loss.
    """
    random = np.random.default_rng(5)
    documents = []
    for _ in range(NUM_ROWS):
        length = int(random.integers(33, 40))
        count = targets(length)
        documents.append(
            {
                "tokens": random.integers(3, 30, length),
                "loss_mask": [0] * (length - count) + [1] * count,
                "sentence_classes": [0] * length,
            }
        )
    return documents


@pytest.fixture(scope="module")
def rows(workshop: Any) -> Path:
    path: Path = workshop.write_data("one a row", one_a_row(lambda length: length - 2))
    return path


def norms(workshop: Any, name: str, data: Path, **changes: Any) -> list[float]:
    """Gradient norms of three steps of four rows."""
    given = {"epochs": 1.0, "heldout": data} | changes
    lines = workshop.train(name, "qwen3_moe", data=data, **given)
    return [line["grad_norm"] for line in lines if "grad_norm" in line]


@pytest.fixture(scope="module")
def balanced(workshop: Any, rows: Path) -> list[float]:
    return norms(workshop, "balanced alone", rows, **BALANCED)


def test_the_weight_is_the_same_with_few_targets(workshop: Any, balanced: list[float]) -> None:
    few = workshop.write_data("few targets", one_a_row(lambda _: 1))
    assert norms(workshop, "balanced few", few, **BALANCED) == pytest.approx(balanced, rel=1e-4)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_weight_is_the_same_by_sequence(
    workshop: Any, rows: Path, balanced: list[float]
) -> None:
    by_sequence = norms(workshop, "balanced by sequence", rows, normalise_by="sequence", **BALANCED)
    assert by_sequence == pytest.approx(balanced, rel=1e-4)


def test_the_weight_is_the_same_with_more_padding_in_each_row(
    workshop: Any, balanced: list[float]
) -> None:
    documents = one_a_row(lambda length: length - 2)
    longer = workshop.write_data("longer rows", documents, seq_length=68)
    assert norms(workshop, "balanced longer", longer, **BALANCED) == pytest.approx(
        balanced, rel=1e-5
    )
    losses = [
        [line["loss"] for line in workshop.metrics(name) if "grad_norm" in line]
        for name in ("balanced longer", "balanced alone")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=EXPERT_TOLERANCE)


def test_the_weight_is_the_same_with_rows_of_padding(workshop: Any) -> None:
    document = one_a_row(lambda length: length - 2)[0]
    same = workshop.write_data("all the same", [document] * NUM_ROWS)
    first, *_, last = norms(workshop, "balanced padded", same, global_batch_size=5, **BALANCED)
    assert last == pytest.approx(first, rel=1e-5)  # two rows, and three of padding


@pytest.mark.parametrize(
    "layout",
    [
        "ep2",
        pytest.param("cp2", marks=pytest.mark.slow),
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in LAYOUTS
            if name[:2] not in ("ep", "cp")
        ),
    ],
)
def test_balanced_layouts_equal_one_rank(
    layout: str, workshop: Any, rows: Path, balanced: list[float]
) -> None:
    found = norms(workshop, f"balanced {layout}", rows, launch=LAYOUTS[layout], **BALANCED)
    assert found == pytest.approx(balanced, rel=EXPERT_TOLERANCE)


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", ["cp2", "tp2 pp2"])
def test_logits_are_kept_small_under_every_layout(layout: str, workshop: Any, rows: Path) -> None:
    expected = norms(workshop, f"z alone for {layout}", rows, **SMALL_LOGITS)
    found = norms(workshop, f"z {layout}", rows, launch=LAYOUTS[layout], **SMALL_LOGITS)
    assert found == pytest.approx(expected, rel=EXPERT_TOLERANCE)


def test_padding_that_is_dispatched_is_reported(workshop: Any, rows: Path) -> None:
    documents = one_a_row(lambda length: length - 2)
    padding = sum(64 - len(document["tokens"]) for document in documents)
    lines = workshop.train("reported", "qwen3_moe", data=rows, heldout=rows, epochs=1.0, **STILL)
    steps = [line for line in lines if "grad_norm" in line]
    assert sum(line["padding_dispatched"] for line in steps) == 2 * padding  # two experts a token
