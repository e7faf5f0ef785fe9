"""Indexed data written, opened by stock Megatron, and read as rows: every value by hand."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_dasd.data.indexed import PackedDataWriter
from megatron_dasd.data.meta import DataMeta, Document, read_meta
from megatron_dasd.data.packed_dataset import PackedDataset, sample_order
from megatron_dasd.errors import UserError

# two rows of 8: [20 21 22 23 24 | 30 31 32] and [40 41]
DOCUMENTS = [
    ("a", [40, 41], [0, 1]),
    ("b", [20, 21, 22, 23, 24], [0, 0, 0, 1, 1]),
    ("c", [30, 31, 32], [0, 1, 1]),
]


def write(folder: Path, vocab_size: int = 50) -> DataMeta:
    folder.mkdir(exist_ok=True)
    writer = PackedDataWriter(folder, seq_length=8, vocab_size=vocab_size, eod_id=2)
    for name, token_ids, mask in DOCUMENTS:
        writer.add(name, token_ids, mask)
    assert writer.documents[1] == Document(name="b", num_tokens=5, num_loss_tokens=2)
    return writer.finish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "data")
    return tmp_path


def test_meta(folder: Path) -> None:
    files = {path.name: path.stat().st_size for path in (folder / "data").iterdir()}
    assert files.pop("meta.json")
    assert (files["tokens.bin"], files["loss_mask.bin"]) == (20, 10)
    expected = DataMeta(
        seq_length=8,
        num_documents=3,
        num_tokens=10,
        num_loss_tokens=5,
        num_packs=2,
        fill=10 / 16,
        vocab_size=50,
        eod_id=2,
        file_bytes=files,
    )
    assert read_meta(folder) == read_meta(folder / "data") == expected


@pytest.mark.parametrize(("vocab_size", "dtype"), [(50, np.uint16), (151_936, np.int32)])
def test_stock_megatron_opens_both(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    write(tmp_path / "data", vocab_size)
    tokens = IndexedDataset(str(tmp_path / "data" / "tokens"))
    mask = IndexedDataset(str(tmp_path / "data" / "loss_mask"))
    assert tokens[0].dtype == dtype
    assert mask[0].dtype == np.uint8
    assert tokens.document_indices.tolist() == mask.document_indices.tolist() == [0, 1, 2, 3]
    for index, (_, token_ids, targets) in enumerate(DOCUMENTS):
        assert tokens[index].tolist() == token_ids
        assert mask[index].tolist() == targets


def test_rows(folder: Path) -> None:
    data = PackedDataset(folder)
    assert len(data) == 2
    rows = [{name: values.tolist() for name, values in data[i].items()} for i in range(2)]
    assert rows == [
        {
            "tokens": [20, 21, 22, 23, 24, 30, 31, 32],
            "labels": [21, 22, 23, 24, 0, 31, 32, 0],
            "loss_mask": [0, 0, 1, 1, 0, 1, 1, 0],
            "position_ids": [0, 1, 2, 3, 4, 0, 1, 2],
            "document_ids": [0, 0, 0, 0, 0, 1, 1, 1],
        },
        {
            "tokens": [40, 41, 0, 0, 0, 0, 0, 0],
            "labels": [41, 0, 0, 0, 0, 0, 0, 0],
            "loss_mask": [1, 0, 0, 0, 0, 0, 0, 0],
            "position_ids": [0, 1, 0, 1, 2, 3, 4, 5],
            "document_ids": [0, 0, -1, -1, -1, -1, -1, -1],
        },
    ]
    assert sum(data[i]["loss_mask"].sum() for i in range(2)) == data.meta.num_loss_tokens
    dtypes = {name: values.dtype for name, values in data[0].items()}
    assert dtypes.pop("loss_mask") == np.float32
    assert set(dtypes.values()) == {np.dtype(np.int64)}
    with pytest.raises(IndexError):
        data[2]


def test_padding_row(folder: Path) -> None:
    row = PackedDataset(folder).padding_row()
    assert row["loss_mask"].tolist() == [0.0] * 8
    assert row["document_ids"].tolist() == [-1] * 8
    assert row["position_ids"].tolist() == list(range(8))


def test_a_worker_process_can_be_handed_the_data(folder: Path) -> None:
    copy = pickle.loads(pickle.dumps(PackedDataset(folder)))
    assert copy[1]["tokens"].tolist() == [40, 41, 0, 0, 0, 0, 0, 0]


def _remove(name: str) -> Callable[[Path], None]:
    return lambda data: (data / name).unlink()


def _cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda data: (data / name).write_bytes((data / name).read_bytes()[:-size])


def _overwrite(name: str) -> Callable[[Path], None]:
    return lambda data: (data / name).write_bytes(b"?" * (data / name).stat().st_size)


def _meta(**changes: int) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        meta = json.loads((data / "meta.json").read_text())
        (data / "meta.json").write_text(json.dumps(meta | changes))

    return change


def _array(name: str, values: list[int]) -> Callable[[Path], None]:
    return lambda data: np.save(data / name, np.array(values, dtype=np.int64))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("meta.json"), "no packed data here"),
        (lambda data: (data / "meta.json").write_text("{"), "meta.json: damaged"),
        (_remove("loss_mask.idx"), "loss_mask.idx is missing"),
        (_cut("tokens.bin", 2), "tokens.bin has 18 bytes, meta.json asks for 20"),
        (_remove("pack_offsets.npy"), "pack_offsets.npy is missing"),
        (_overwrite("pack_offsets.npy"), "damaged"),
        (_meta(num_documents=4), "differ in the number of documents"),
        (_meta(num_packs=3), "does not divide the documents into 3 packs"),
        (_meta(seq_length=7), "a pack is longer than 7 tokens"),
        (_array("pack_documents.npy", [1, 2, 2]), "does not hold every document once"),
        (_array("pack_offsets.npy", [0, 2, 2]), "does not divide"),
        (_array("pack_offsets.npy", [0, 3, 3]), "does not ascend"),
    ],
)
def test_damage_is_one_clear_line(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder / "data")
    with pytest.raises(UserError, match=message) as error:
        PackedDataset(folder)
    assert "\n" not in str(error.value)


def test_other_lengths_of_the_mask(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    folder = folder / "data"
    writer = PackedDataWriter(other, seq_length=8, vocab_size=50, eod_id=2)
    for size in (3, 4, 3):
        writer.add("x", [1] * size, [0] * size)
    writer.finish()
    for suffix in ("bin", "idx"):
        (other / f"loss_mask.{suffix}").replace(folder / f"loss_mask.{suffix}")
    with pytest.raises(UserError, match="differ in the lengths of their documents"):
        PackedDataset(folder)


def test_ids_outside_the_vocabulary(folder: Path) -> None:
    _meta(vocab_size=32)(folder / "data")
    data = PackedDataset(folder)
    with pytest.raises(UserError, match="row 0 holds a token id outside the vocabulary of 32"):
        data[0]
    writer = PackedDataWriter(folder, seq_length=8, vocab_size=32, eod_id=2)
    with pytest.raises(UserError, match="x: token id 32 is outside the model's vocabulary of 32"):
        writer.add("x", [1, 32], [0, 1])


@pytest.mark.parametrize(
    ("token_ids", "mask"), [([1, 2], [0]), ([1, 2], [1, 1]), ([1] * 9, [0] * 9)]
)
def test_documents_that_do_not_fit_are_refused(
    tmp_path: Path, token_ids: list[int], mask: list[int]
) -> None:
    writer = PackedDataWriter(tmp_path, seq_length=8, vocab_size=50, eod_id=2)
    with pytest.raises(ValueError, match="x: "):
        writer.add("x", token_ids, mask)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert sample_order(6, seed=1, epoch=0).tolist() == sample_order(6, 1, 0).tolist()
    orders = {tuple(sample_order(6, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
    assert all(sorted(order) == [0, 1, 2, 3, 4, 5] for order in orders)


def test_the_order_stays_what_it_was() -> None:
    """A run that is resumed under another version of NumPy goes on in the same order."""
    orders = [sample_order(8, seed=1234, epoch=epoch).tolist() for epoch in (0, 1)]
    assert orders == [[1, 6, 4, 0, 3, 5, 2, 7], [6, 7, 4, 2, 0, 1, 5, 3]]
