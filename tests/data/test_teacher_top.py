"""The teacher's tokens beside packed data: every value by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data, write_index
from megatron_dasd.data.teacher_top import (
    IDS,
    LOGPROBS,
    TOP,
    DistillationDataset,
    TopMeta,
    documents_digest,
    write_top,
)
from megatron_dasd.data.top_codec import encode_top
from megatron_dasd.errors import UserError

# a row of 8 in slots of 4: [10 11 . . | 20 21 22 .]
DOCUMENTS = [[10, 11], [20, 21, 22]]
UNKNOWN = [-1, -1]
NOTHING = [-np.inf, -np.inf]
PLACES = [[0, 1], [0, 1, 2]]


def write(folder: Path, documents: list[list[int]]) -> Path:
    folder.mkdir()
    data_format = DataFormat(8, 4, 50, eod_id=2)
    writer = ShardWriter(folder, data_format)
    for tokens in documents:
        writer.add("d", {"tokens": tokens, "loss_mask": [0, *[1] * (len(tokens) - 1)]})
    writer.close()
    write_data(folder, [folder], data_format)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    data = write(tmp_path / "data", DOCUMENTS)
    shards, sizes = [], []
    for number, places in enumerate(PLACES):  # two shards, of a document each
        shards.append(tmp_path / f"s{number}")
        shards[-1].write_bytes(encode_top(*values(places)))
        sizes.append(shards[-1].stat().st_size)
    top = tmp_path / "top"
    top.mkdir()
    meta = TopMeta(top_k=2, documents=documents_digest(data), mean_mass=0.5)
    write_top(top, shards, np.array(sizes), meta)
    return data, top


def values(places: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ids 2i and 2i + 1 at token i of all."""
    ids = np.array([[2 * i, 2 * i + 1] if i else UNKNOWN for i in places], np.int32)
    logprobs = np.array([[-i, -i - 0.5] if i else NOTHING for i in places], np.float32)
    return ids, logprobs


def test_a_row_has_them_at_the_places_of_the_labels(folders: tuple[Path, Path]) -> None:
    row = DistillationDataset(*folders)[0]
    assert row["labels"].tolist() == [11, 0, 0, 0, 21, 22, 0, 0]
    ids = [[2, 3], UNKNOWN, UNKNOWN, UNKNOWN, [2, 3], [4, 5], UNKNOWN, UNKNOWN]
    assert row[IDS].tolist() == ids
    assert row[IDS].dtype == np.int64
    one, two = [-1.0, -1.5], [-2.0, -2.5]
    logprobs = [one, NOTHING, NOTHING, NOTHING, one, two, NOTHING, NOTHING]
    assert row[LOGPROBS].tolist() == logprobs


def test_padding_knows_nothing(folders: tuple[Path, Path]) -> None:
    row = DistillationDataset(*folders).padding_row()
    assert row[IDS].tolist() == [UNKNOWN] * 8
    assert row[LOGPROBS].tolist() == [NOTHING] * 8


def test_those_of_other_documents_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other", [[10, 11, 12], [20, 21]])
    with pytest.raises(UserError, match="is of other documents"):
        DistillationDataset(other, folders[1])


@pytest.mark.parametrize("name", [f"{TOP}.idx", f"{TOP}.bin", "meta.json"])
def test_damage_is_one_clear_line(folders: tuple[Path, Path], name: str) -> None:
    file = folders[1] / name
    file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(UserError, match="damaged"):
        DistillationDataset(*folders)


def test_changed_bytes_of_a_document_are_one_clear_line(folders: tuple[Path, Path]) -> None:
    file = folders[1] / f"{TOP}.bin"
    file.write_bytes(b"x" * file.stat().st_size)
    dataset = DistillationDataset(*folders)
    with pytest.raises(UserError, match=r"document 0: damaged .*; run score_topk again"):
        dataset[0]


def test_older_folders_are_read(folders: tuple[Path, Path], tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for name, place in ((IDS, 0), (LOGPROBS, 1)):
        whole = np.concatenate([values(places)[place] for places in PLACES])
        whole.tofile(older / f"{name}.bin")
        write_index(older / f"{name}.idx", whole.dtype.type, np.array([4, 6]))
    sizes = {path.name: path.stat().st_size for path in older.iterdir()}
    meta = {"top_k": 2, "documents": documents_digest(folders[0]), "mean_mass": 0.5}
    (older / "meta.json").write_text(json.dumps(meta | {"file_bytes": sizes}))
    old, new = (DistillationDataset(folders[0], top)[0] for top in (older, folders[1]))
    assert old[IDS].tolist() == new[IDS].tolist()
    assert old[LOGPROBS].tolist() == new[LOGPROBS].tolist()
