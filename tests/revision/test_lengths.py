"""Lengths of rollouts beside the teacher's: worked out by hand."""

import pytest

from megatron_dasd.revision.lengths import NUM_BINS, length_figures


def test_worked_out_by_hand() -> None:
    figures = length_figures([30, 10, 20], [45, 5, 30], [True, False, True])
    assert figures["mean_teacher_tokens"] == 20.0
    assert figures["mean_rollout_tokens"] == pytest.approx(80 / 3)
    assert figures["cut_off"] == pytest.approx(2 / 3)
    assert figures["by_length"] == [
        {"from": 10, "to": 10, "num_rollouts": 1, "cut_off": 0.0, "ratio": 0.5},
        {"from": 20, "to": 20, "num_rollouts": 1, "cut_off": 1.0, "ratio": 1.5},
        {"from": 30, "to": 30, "num_rollouts": 1, "cut_off": 1.0, "ratio": 1.5},
    ]


def test_ranges_hold_about_as_many_each() -> None:
    figures = length_figures(range(1, 21), [1] * 20, [False] * 20)
    sizes = [part["num_rollouts"] for part in figures["by_length"]]
    assert len(sizes) == NUM_BINS
    assert sum(sizes) == 20
    assert max(sizes) - min(sizes) <= 1
    edges = [edge for part in figures["by_length"] for edge in (part["from"], part["to"])]
    assert edges == sorted(edges)


def test_no_rollouts() -> None:
    assert length_figures([], [], []) == {}
