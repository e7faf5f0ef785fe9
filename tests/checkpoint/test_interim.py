"""Interim checkpoints: which layouts load them, and what takes their place."""

from pathlib import Path

import pytest

from megatron_dasd.checkpoint.interim import (
    GATHERED,
    LAYOUT,
    adopt_gathered,
    gathering_launch,
    layout_of,
    mark,
    needs_gathering,
)
from megatron_dasd.config.base import Launch
from megatron_dasd.errors import UserError

TP2 = Launch(num_ranks=16, tensor_parallel=2, context_parallel=4, distributed_optimizer=True)


def checkpoint(saves: Path, iteration: int, content: str, whole: bool = True) -> Path:
    folder = saves / f"iter_{iteration:07d}"
    folder.mkdir(parents=True)
    (folder / "__0_0.distcp").write_text(content)
    if whole:
        (folder / "metadata.json").write_text("{}")
    return folder


def test_the_layout_is_noted(tmp_path: Path) -> None:
    assert layout_of(tmp_path) is None
    mark(tmp_path, TP2)
    assert layout_of(tmp_path) == TP2
    (tmp_path / LAYOUT).write_text("{")
    with pytest.raises(UserError, match=f"^{tmp_path / LAYOUT}: damaged; remove {tmp_path}, the"):
        layout_of(tmp_path)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"context_parallel": 1}, False),
        ({"num_ranks": 8}, False),
        # 64 ranks share a state of buckets of 64 M weights, 8 of 40 M
        ({"num_ranks": 128}, True),
        ({"tensor_parallel": 4}, True),
        ({"pipeline_parallel": 2}, True),
        ({"expert_parallel": 2}, True),
        ({"distributed_optimizer": False}, True),
    ],
)
def test_what_has_to_be_gathered(changes: dict[str, int], needed: bool) -> None:
    other = Launch.model_validate(TP2.model_dump() | changes)
    assert needs_gathering(TP2, other) == needed


@pytest.mark.parametrize(("num_ranks", "expected"), [(1, None), (2, 2), (7, 6), (16, 16), (64, 16)])
def test_a_pass_runs_on_as_many_ranks_as_there_are(num_ranks: int, expected: int | None) -> None:
    launch = gathering_launch(TP2, num_ranks)
    assert (launch and launch.num_ranks) == expected
    if launch:
        assert (launch.tensor_parallel, launch.context_parallel) == (2, 1)
        Launch.model_validate(launch.model_dump())


def test_experts_stay_on_as_many_ranks(tmp_path: Path) -> None:
    written = TP2.model_copy(update={"expert_parallel": 4})
    assert gathering_launch(written, 6) is None
    launch = gathering_launch(written, 15)
    assert launch is not None
    assert (launch.num_ranks, launch.expert_parallel) == (8, 4)


def test_what_was_gathered_takes_the_place(tmp_path: Path) -> None:
    mark(checkpoint(tmp_path, 4, "parts"), TP2)
    checkpoint(tmp_path / GATHERED, 4, "half", whole=False)
    adopt_gathered(tmp_path)  # killed before it was whole: the old one stays
    assert (tmp_path / "iter_0000004" / "__0_0.distcp").read_text() == "parts"
    assert not (tmp_path / GATHERED).exists()
    checkpoint(tmp_path / GATHERED, 4, "all")
    adopt_gathered(tmp_path)
    assert (tmp_path / "iter_0000004" / "__0_0.distcp").read_text() == "all"
    assert layout_of(tmp_path / "iter_0000004") is None
    assert not (tmp_path / GATHERED).exists()


def test_killed_between_removal_and_renaming_it_is_completed(tmp_path: Path) -> None:
    checkpoint(tmp_path / GATHERED, 4, "all")
    adopt_gathered(tmp_path)
    assert (tmp_path / "iter_0000004" / "__0_0.distcp").read_text() == "all"
