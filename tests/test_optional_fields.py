"""Every optional field of every record, absent or null, through every reader of records."""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.data.pieces import plan_shards
from megatron_dasd.data.responses import FIELDS, read_shard
from megatron_dasd.record_batches import read_batches
from megatron_dasd.records import FilteredResponse
from megatron_dasd.records_io import arrow_schema, read_records, stop_on_malformed
from tests.full_records import RECORDS, Row, changed, optional_fields

TYPES = list(RECORDS)


def variants(record_type: type) -> list[Row]:
    """The record's row without each of its optional fields, and with null in it."""
    record = RECORDS[record_type]
    paths = list(optional_fields(record))
    return [
        change for path in paths for change in (changed(record, path), changed(record, path, None))
    ]


def num_in_batches(file: Path, record_type: type[object]) -> int:
    return sum(len(batch.records) for batch in read_batches(file, record_type))


def test_the_fields_are_found() -> None:
    found = {".".join(map(str, path)) for path in optional_fields(RECORDS[FilteredResponse])}
    assert found >= {"tokens", "usage", "tool_calls", "text_spans", "prompt.domain", "prompt.tools"}
    assert found >= {"student_prefix", "student_prefix_ids", "prompt.messages.0.thinking"}
    assert "finish_reason" not in found  # what is not known must be said


@pytest.mark.parametrize("record_type", TYPES)
def test_lines_without_an_optional_field(record_type: type, tmp_path: Path) -> None:
    rows = variants(record_type)
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [RECORDS[record_type]] * len(rows)
    assert list(read_records(file, record_type)) == expected
    assert num_in_batches(file, record_type) == len(rows)


@pytest.mark.parametrize("record_type", TYPES)
def test_columns_that_are_absent_or_null(record_type: type, tmp_path: Path) -> None:
    record, schema = RECORDS[record_type], arrow_schema(record_type)
    whole = tmp_path / "null.parquet"
    nulls = [changed(record, path, None) for path in optional_fields(record)]
    pq.write_table(pa.Table.from_pylist(nulls, schema=schema), whole)
    assert list(read_records(whole, record_type)) == [record] * len(nulls)
    assert num_in_batches(whole, record_type) == len(nulls)
    for path in optional_fields(record):
        if len(path) == 1:
            file = tmp_path / f"{path[0]}.parquet"
            table = pa.Table.from_pylist([asdict(record)], schema=schema)
            pq.write_table(table.drop_columns([str(path[0])]), file)
            assert list(read_records(file, record_type)) == [record]
            assert num_in_batches(file, record_type) == 1


@pytest.mark.parametrize("record_type", [t for t in TYPES if issubclass(t, FilteredResponse)])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_training_reads(record_type: type, kind: str, tmp_path: Path) -> None:
    record = RECORDS[record_type]
    rows = [asdict(record), *variants(record_type)]
    file = tmp_path / f"r.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(record_type)), file)
    found = [
        (batch.prompts[row], *(batch.columns.column(name)[row].as_py() for name in FIELDS[1:]))
        for shard in plan_shards(file)
        for batch in read_shard(shard, FIELDS, stop_on_malformed)
        for row in range(len(batch.numbers))
    ]
    assert len(found) == len(rows)
    assert found == [found[0]] * len(rows)
