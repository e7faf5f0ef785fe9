"""Rows of Arrow and Parquet: every type as JSON values, nothing rounded."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.arrow_rows import arrow_rows, count_arrow_rows, plain_rows
from megatron_dasd.errors import UserError
from megatron_dasd.records_io import count_records, numbered_rows

INSTANT = pa.timestamp("ns")
TABLE = pa.table(
    {
        "made": pa.array([1700000000123456789, None], INSTANT),
        "zone": pa.array([5, 0], pa.timestamp("us", "UTC")),
        "day": pa.array([1, 2], pa.date32()),
        "took": pa.array([5, 7], pa.duration("ns")),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "turns": pa.array(
            [[{"role": "user", "at": 1700000000123456789, "tags": ["a", None]}], []],
            pa.list_(
                pa.struct([("role", pa.string()), ("at", INSTANT), ("tags", pa.list_(pa.string()))])
            ),
        ),
        "large": pa.array([["x"], None], pa.large_list(pa.large_string())),
    }
)
ROWS = [
    {
        "made": "2023-11-14 22:13:20.123456789",
        "zone": "1970-01-01 00:00:00.000005Z",
        "day": "1970-01-02",
        "took": "5",
        "kind": "x",
        "turns": [{"role": "user", "at": "2023-11-14 22:13:20.123456789", "tags": ["a", None]}],
        "large": ["x"],
    },
    {
        "made": None,
        "zone": "1970-01-01 00:00:00.000000Z",
        "day": "1970-01-03",
        "took": "7",
        "kind": "y",
        "turns": [],
        "large": None,
    },
]


def test_types_of_columns(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    with (
        pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, TABLE.schema) as out,
    ):
        out.write_table(TABLE)
    with (
        pa.OSFile(str(tmp_path / "c.feather"), "wb") as sink,
        pa.ipc.new_file(sink, TABLE.schema) as out,
    ):
        out.write_table(TABLE)
    for name in ("a.parquet", "b.arrow", "c.feather"):
        assert list(numbered_rows(tmp_path / name)) == [(1, ROWS[0]), (2, ROWS[1])]
        assert count_records(tmp_path / name) == 2


def test_columns_of_one_name(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(UserError, match="a.parquet: 2 columns are named text; rename all but one"):
        plain_rows(batch, tmp_path / "a.parquet", 1)


def test_a_text_that_is_not_utf8(tmp_path: Path) -> None:
    offsets, content = pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0])), b"a\xff\xfe"
    text = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(content)])
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2]), text], names=["n", "text"])
    with pytest.raises(
        UserError, match=r"a.arrow: record 6: field text: not UTF-8 \(invalid start"
    ):
        plain_rows(batch, tmp_path / "a.arrow", 5)


def test_a_file_that_is_no_arrow(tmp_path: Path) -> None:
    for content in (b"ARROW1 and more", b"nonsense"):
        (tmp_path / "a.arrow").write_bytes(content)
        for read in (count_arrow_rows, lambda file: list(arrow_rows(file))):
            with pytest.raises(UserError, match="a.arrow: not a readable Arrow file"):
                read(tmp_path / "a.arrow")
