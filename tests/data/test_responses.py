"""Files cut into shards, and what is read of them: the same whichever way they are checked."""

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd.data import pieces
from megatron_dasd.data.pieces import Piece, plan_shards
from megatron_dasd.data.responses import FIELDS, read_shard
from megatron_dasd.errors import UserError
from megatron_dasd.records import FilteredResponse, Response, Span
from megatron_dasd.records_io import stop_on_malformed, to_table


@pytest.fixture
def records(make_response: Callable[..., Response]) -> list[FilteredResponse]:
    """A hundred responses whose candidate numbers are their places."""
    spans = [Span(start=0, end=1)]
    given: dict[str, Any] = {"output": "é", "output_spans": spans, "text_spans": spans}
    return [
        make_response("x", FilteredResponse, candidate=i, **given)  # type: ignore[misc]
        for i in range(100)
    ]


def candidates(path: Path, shard_bytes: int = 1) -> list[list[tuple[int, int]]]:
    """(number, candidate) of every response, by shard."""
    return [
        [
            (number, batch.candidate(row))
            for batch in read_shard(shard, FIELDS, stop_on_malformed)
            for row, number in enumerate(batch.numbers)
        ]
        for shard in plan_shards(path, shard_bytes)
    ]


EXPECTED = [(i + 1, i) for i in range(100)]


def test_row_groups_become_shards(tmp_path: Path, records: list[FilteredResponse]) -> None:
    file = tmp_path / "r.parquet"
    pq.write_table(to_table(FilteredResponse, records, {}), file, row_group_size=40)
    assert candidates(file) == [EXPECTED[:40], EXPECTED[40:80], EXPECTED[80:]]
    assert candidates(file, shard_bytes=1 << 30) == [EXPECTED]


def test_other_kinds_are_read_whole(tmp_path: Path, records: list[FilteredResponse]) -> None:
    rows = [asdict(record) for record in records]
    (tmp_path / "array.json").write_text(json.dumps(rows))
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(lines))
    table = to_table(FilteredResponse, records, {})
    with pa.ipc.new_file(str(tmp_path / "table.arrow"), table.schema) as out:
        out.write_table(table)
    for name in ("array.json", "lines.jsonl.gz", "table.arrow"):
        assert candidates(tmp_path / name) == [EXPECTED]


def test_lines_are_cut_at_their_ends(
    tmp_path: Path, records: list[FilteredResponse], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.jsonl"
    lines = [json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records]
    file.write_text("".join(lines), encoding="utf-8")
    monkeypatch.setattr(pieces, "_LINES_BLOCK", 50)
    monkeypatch.setattr(pieces, "SHARD_BYTES", 3 * len(lines[0].encode()) - 60)
    shards = candidates(file)
    assert len(shards) > 30
    assert [place for shard in shards for place in shard] == EXPECTED
    found = [piece for shard in plan_shards(file, 1) for piece in shard]
    assert found[0] == Piece(file, 0, found[1].start, 1, found[1].start)
    assert found[-1].end == file.stat().st_size


def test_records_that_have_to_be_checked_one_by_one(
    tmp_path: Path, records: list[FilteredResponse]
) -> None:
    """A prompt without the fields that have defaults is another schema, and well-formed."""
    rows = [asdict(record) for record in records]
    for row in rows:
        row["prompt"] = {k: row["prompt"][k] for k in ("prompt_id", "messages")}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    assert candidates(tmp_path / "r.parquet") == [EXPECTED]


@pytest.mark.parametrize("place", [0, 31, 32, 99])
def test_a_malformed_record_is_named(
    tmp_path: Path, records: list[FilteredResponse], place: int
) -> None:
    rows = [asdict(record) for record in records]
    rows[place]["tokens"]["logprobs"].append(0.0)
    file = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(
        UserError, match=f"record {place + 1}: field tokens.logprobs: 2 values for 1"
    ):
        candidates(file)


def test_negative_sizes_are_refused_as_by_the_record_itself(
    tmp_path: Path, records: list[FilteredResponse]
) -> None:
    row = asdict(records[0])
    row["tokens"] = {"token_ids": [1, 2], "num_bytes": [2, -1], "logprobs": [0.0, 0.0]}
    file = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist([row]), file)
    with pytest.raises(UserError, match="record 1: field tokens.num_bytes: holds a negative"):
        candidates(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "r.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(UserError, match="r.parquet: not a readable Parquet file"):
        candidates(tmp_path)
    (tmp_path / "r.parquet").unlink()
    (tmp_path / "r.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="r.jsonl: record 1: not UTF-8 text"):
        candidates(tmp_path)
