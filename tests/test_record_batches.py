"""Records many at a time: the same records, the same refusals, and token lists as arrays."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_dasd import record_batches
from megatron_dasd.errors import UserError
from megatron_dasd.record_batches import read_batches
from megatron_dasd.records import Message, Response, TokenLogprobs
from megatron_dasd.records_io import SetAside, read_records, to_table

Make = Callable[..., Response]


@pytest.fixture
def responses(make_response: Make) -> list[Response]:
    texts = ["ab", "é", "c d e"]
    made = [make_response(text, candidate=n) for n, text in enumerate(texts)]
    none = TokenLogprobs(token_ids=[], num_bytes=[], logprobs=[])
    return [*made, make_response("no tokens", candidate=3, tokens=none)]


def as_parquet(path: Path, responses: list[Response]) -> Path:
    pq.write_table(to_table(Response, responses, {}), path / "r.parquet")
    return path / "r.parquet"


def as_lines(path: Path, responses: list[Response]) -> Path:
    (path / "r.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in responses))
    return path / "r.jsonl"


@pytest.mark.parametrize("write", [as_parquet, as_lines])
def test_the_same_records_as_one_by_one(
    write: Callable[[Path, list[Response]], Path],
    responses: list[Response],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record_batches, "BATCH_RECORDS", 3)
    file = write(tmp_path, responses)
    expected = list(read_records(file, Response))
    found, numbers = [], []
    for batch in read_batches(file, Response):
        assert batch.table.num_rows == len(batch.records)
        numbers += batch.numbers
        for row, record in enumerate(batch.records):
            num_bytes, logprobs = batch.tokens("tokens", row)
            ids = batch.table.column("tokens")[row].as_py()["token_ids"]
            lists = TokenLogprobs(
                token_ids=ids, num_bytes=num_bytes.tolist(), logprobs=logprobs.tolist()
            )
            assert sum(record.tokens.num_bytes) == num_bytes.sum()
            found.append(replace(record, tokens=lists))
    assert numbers == [1, 2, 3, 4]
    assert found == expected


def test_a_batch_with_a_malformed_record_keeps_the_others(
    responses: list[Response], tmp_path: Path
) -> None:
    rows = [asdict(r) for r in responses]
    rows[1]["tokens"]["logprobs"][0] = None
    rows[2]["text"] = "others"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    aside = SetAside("set_aside")
    (batch,) = read_batches(tmp_path / "r.parquet", Response, aside.malformed)
    assert batch.numbers == [1, 4]
    assert [r.text for r in batch.records] == ["ab", "no tokens"]
    reasons = [row["reason"] for row in aside.rows]
    assert "record 2: field tokens.logprobs.0: " in reasons[0]
    told = "record 3: field tokens.num_bytes: sum to 5, the text has 6 bytes"
    assert reasons[1].endswith(told)
    with pytest.raises(UserError, match="r.parquet: record 2: field tokens.logprobs.0"):
        list(read_batches(tmp_path / "r.parquet", Response))


def test_lists_of_other_lengths_and_negative_sizes_are_no_records(
    responses: list[Response], tmp_path: Path
) -> None:
    for field, values in (("num_bytes", [3, -1]), ("token_ids", [1])):
        row = asdict(responses[0])
        row["tokens"][field] = values
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "r.parquet")
        with pytest.raises(UserError, match="record 1: field tokens.num_bytes: "):
            list(read_batches(tmp_path / "r.parquet", Response))


def test_other_number_types_and_missing_columns_are_read(
    responses: list[Response], tmp_path: Path
) -> None:
    row = asdict(responses[0])
    del row["student_prefix"], row["student_prefix_ids"]
    table = pa.Table.from_pylist([row])
    table = table.set_column(
        table.schema.get_field_index("temperature"), "temperature", pa.array([1], pa.int32())
    )
    pq.write_table(table, tmp_path / "r.parquet")
    (batch,) = read_batches(tmp_path / "r.parquet", Response)
    assert batch.records[0].temperature == 1.0
    assert np.array_equal(batch.tokens("tokens", 0)[0], [1, 1])


def test_records_without_token_lists(tmp_path: Path) -> None:
    messages = [Message(role="user", content=str(n)) for n in range(3)]
    pq.write_table(to_table(Message, messages, {}), tmp_path / "m.parquet")
    (batch,) = read_batches(tmp_path / "m.parquet", Message)
    assert batch.records == messages


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "r.parquet").write_text("nonsense")
    with pytest.raises(UserError, match="r.parquet: not a readable Parquet file"):
        list(read_batches(tmp_path / "r.parquet", Response))


def test_no_records(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("")
    assert list(read_batches(tmp_path / "r.jsonl", Response)) == []
