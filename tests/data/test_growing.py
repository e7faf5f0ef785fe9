"""Data that grows: rows by number, whatever set they are of, and sets that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_dasd.data.growing import GrowingDataset
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.errors import UserError


def write(folder: Path, first_token: int, seq_length: int = 4, **companions: Any) -> Path:
    """Two documents of three tokens, a row each."""
    folder.mkdir()
    data_format = DataFormat(seq_length, 1, 50, 2, companions=tuple(companions))
    writer = ShardWriter(folder, data_format)
    for number in range(2):
        start = first_token + 3 * number
        tokens = [start, start + 1, start + 2]
        writer.add(str(number), {"tokens": tokens, "loss_mask": [0, 1, 1], **companions})
    writer.close()
    write_data(folder, [folder], data_format, {})
    return folder


def first_tokens(data: GrowingDataset, numbers: range) -> list[int]:
    return [int(data[number]["tokens"][0]) for number in numbers]


def test_added_rows_stand_behind_the_first_ones(tmp_path: Path) -> None:
    first = PackedDataset(write(tmp_path / "first", 3))
    added = [write(tmp_path / "a", 13), write(tmp_path / "b", 23)]
    data = GrowingDataset(first, lambda n: divmod(n, 2), lambda n: PackedDataset(added[n]))
    assert len(data) == 2
    own = sorted(first_tokens(data, range(2)))
    assert own == [3, 6]
    assert sorted(first_tokens(data, range(2, 6))) == [13, 16, 23, 26]
    assert data.lengths(5).tolist() == [3]
    assert data.padding_row()["tokens"].shape == (4,)


def test_a_set_of_another_row_length_is_named(tmp_path: Path) -> None:
    first = PackedDataset(write(tmp_path / "first", 3))
    other = write(tmp_path / "other", 3, seq_length=6)
    data = GrowingDataset(first, lambda n: (0, n), lambda _: PackedDataset(other))
    with pytest.raises(UserError, match=rf"{other}: seq_length is 6, .* it is blended with 4"):
        data[2]


def test_companions_that_a_set_has_not_are_unknown(tmp_path: Path) -> None:
    with_classes = write(tmp_path / "with", 3, sentence_classes=[1, 1, 3])
    plain = write(tmp_path / "plain", 13)
    rows = [
        PackedDataset(path, companions=["sentence_classes"])[0] for path in (with_classes, plain)
    ]
    assert rows[0].keys() == rows[1].keys()
    assert rows[0]["sentence_classes"].tolist() == [1, 3, 0, 0]  # at the places of the labels
    assert rows[1]["sentence_classes"].tolist() == [0, 0, 0, 0]
    assert "sentence_classes" not in PackedDataset(with_classes, companions=[])[0]
    assert np.array_equal(rows[1]["tokens"], PackedDataset(plain)[0]["tokens"])


def test_rows_without_a_writer_are_the_teachers_responses(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", 13)
    row = PackedDataset(plain, companions=["writers"])[0]
    assert row["writers"].tolist() == [1, 1, 1, 1]
