"""What the deciding process holds of each record: a slope, up to a million records."""

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence.candidates import ROW, choose
from megatron_dasd.filters.judging import IDENTITY
from megatron_dasd.filters.runner import _settle_jobs
from megatron_dasd.sources.numbering import ScannedRows, number_rows

SIZES = (250_000, 500_000, 1_000_000)
PART = 32


def duplicates(size: int) -> None:
    chance = np.random.default_rng(0)
    parts = (np.frombuffer(chance.bytes(16 * PART), dtype=IDENTITY) for _ in range(size // PART))
    judge: Any = SimpleNamespace()
    assert sum(1 for _ in _settle_jobs(judge, parts)) == size // PART


def numbers(size: int) -> None:
    chance = np.random.default_rng(0)
    ids = np.frombuffer(chance.bytes(16 * size), dtype="V16")
    rows = ScannedRows(ids, ids, np.ones(size, np.int32), np.zeros(size, np.bool_))
    assert number_rows(rows).conflict is None


def choice(settings: SelectDas) -> Callable[[int], None]:
    def choose_all(size: int) -> None:
        rows = np.zeros(size, dtype=ROW)
        rows["group"][:, 0] = np.arange(size) // 8
        rows["tie_break"] = np.random.default_rng(0).permutation(size)
        rows["classes"] = 1
        assert 0 < choose(rows, settings).sum() <= max(size // 8, 0x20000)

    return choose_all


def settings(**how: Any) -> SelectDas:
    return SelectDas(kind="select_das", responses="r", **how)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("work", "most"),
    [
        (duplicates, 150),
        (numbers, 300),
        (choice(settings(keep=1)), 300),
        (choice(settings(budget={"responses": 0x20000})), 300),
    ],
    ids=["filter", "import", "select", "budget"],
)
def test_a_record_takes_a_few_hundred_bytes(work: Callable[[int], None], most: int) -> None:
    peaks = []
    for size in SIZES:
        tracemalloc.start()
        work(size)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    slope = np.polyfit(SIZES, peaks, 1)[0]
    print(f"{slope:.0f} bytes a record")
    assert slope < most
