"""Groups of documents: numbered, named alike over data sets, and laid into rows."""

from pathlib import Path

import numpy as np
import pytest

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.data.groups import MAX_NAMES, all_names, groups_of_documents, renumbered
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.meta import DOCUMENT_GROUPS, DataMeta, Document, read_meta
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.errors import UserError

NAMES = {"domain": ["code", "math"], "temperature": ["0.6"]}
NUMBERS = [[2, 1], [0, 0], [1, 1]]


def stage_of(place: Path, parts: list[list[tuple[str | None, float | None]]]) -> Path:
    with StageFolder(place / "stage", "stage", "preprocess_data", {}, {}) as folder:
        for index, groups in enumerate(parts):
            documents = [
                Document(name="x", num_tokens=2, num_loss_tokens=1, domain=d, temperature=t)
                for d, t in groups
            ]
            folder.write_part(index, Document, documents, {})
    return place / "stage"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Documents of 2 tokens each, all in one row of 8, in the order 0, 1, 2."""
    folder = tmp_path / "data"
    folder.mkdir()
    data_format = DataFormat(8, 1, 50, eod_id=2)
    writer = ShardWriter(folder, data_format)
    for number in range(3):
        writer.add(str(number), {"tokens": [10 + number, 20 + number], "loss_mask": [0, 1]})
    writer.close()
    np.save(folder / DOCUMENT_GROUPS, np.array(NUMBERS, np.uint16))
    write_data(folder, [folder], data_format, NAMES)
    return folder


def test_documents_are_numbered_by_the_order_of_their_names(tmp_path: Path) -> None:
    parts: list[list[tuple[str | None, float | None]]] = [
        [("math", 1.0), ("code", 0.6)],
        [],
        [(None, None), ("math", 0.6)],
    ]
    names, numbers = groups_of_documents(stage_of(tmp_path, parts))
    assert names == {"domain": ["code", "math"], "temperature": ["0.6", "1"]}
    assert numbers.tolist() == [[2, 2], [1, 1], [0, 0], [2, 1]]


def test_of_very_many_names_the_most_frequent_are_kept(tmp_path: Path) -> None:
    rare = [(f"rare {number:03d}", 1.0) for number in range(MAX_NAMES + 5)]
    names, numbers = groups_of_documents(stage_of(tmp_path, [[*rare, ("zz", 1.0), ("zz", 1.0)]]))
    assert len(names["domain"]) == MAX_NAMES
    assert names["domain"][-1] == "zz"
    assert numbers[-1].tolist() == [MAX_NAMES, 1]
    assert numbers[MAX_NAMES - 2 : -2, 0].tolist() == [MAX_NAMES - 1, *[0] * 6]


def test_one_numbering_for_several_sets(data: Path) -> None:
    own: DataMeta = read_meta(data)
    assert all_names([own]) == NAMES
    wanted = {"domain": ["art", "math"], "temperature": ["0.6", "1"]}
    table = renumbered(NAMES, wanted)
    assert {kind: numbers.tolist() for kind, numbers in table.items()} == {
        "domain": [0, 0, 2],
        "temperature": [0, 1],
    }
    assert renumbered({}, wanted)["domain"].tolist() == [0]


def test_rows_know_the_groups_of_their_documents(data: Path) -> None:
    row = PackedDataset(data)[0]
    documents = row["tokens"].reshape(4, 2)[:, 0] - 10
    expected = [[NUMBERS[number] if number >= 0 else [0, 0]] for number in documents.tolist()]
    # the last position of each slot has no label, and is in no group
    assert row["domain"].tolist() == [n for ((d, _),) in expected for n in (d, 0)]
    assert row["temperature"].tolist() == [n for ((_, t),) in expected for n in (t, 0)]
    wanted = {"domain": ["art", "code", "math"], "temperature": ["0.6"]}
    other = PackedDataset(data, wanted)[0]
    assert other["domain"].tolist() == [n + 1 if n else 0 for n in row["domain"].tolist()]
    assert PackedDataset(data, wanted).padding_row()["domain"].tolist() == [0] * 8
    assert "domain" not in PackedDataset(data, {})[0]


def test_a_number_without_a_name(data: Path) -> None:
    np.save(data / DOCUMENT_GROUPS, np.array([[2, 1], [0, 2], [1, 1]], np.uint16))
    with pytest.raises(UserError, match="row 0 names a group that meta.json does not"):
        PackedDataset(data)[0]


def test_numbers_of_other_documents(data: Path) -> None:
    np.save(data / DOCUMENT_GROUPS, np.array([[2, 1]] * 2, np.uint16))
    with pytest.raises(UserError, match=DOCUMENT_GROUPS):
        PackedDataset(data)
