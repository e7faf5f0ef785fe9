"""Training with DALI's batches is training with the default's, step by step and over a restart."""

from typing import Any

import pytest

from megatron_dasd.errors import Stopped

TIMED = ("seconds", "tokens_per_second", "tflops_per_rank")


def without_seconds(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMED} for line in metrics]


def test_dali_trains_on_the_same_rows(workshop: Any) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install '.[dali]'")
    by_torch = workshop.train("by torch", launch={"num_ranks": 2})
    changes = {"loader": "dali", "launch": {"num_ranks": 2}}
    with pytest.raises(Stopped, match="training stopped at iteration 3"):
        workshop.train("by dali", megatron={"exit-interval": 3}, **changes)
    by_dali = workshop.train("by dali", **changes)
    heldout = [line for line in by_dali if "heldout_loss" in line]
    assert heldout
    assert without_seconds(by_dali) == without_seconds(by_torch)
