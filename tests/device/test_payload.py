"""Payloads as files: what was written is what is read, and a wrong file is one clear line."""

import json
import math
from pathlib import Path

import pytest

from megatron_dasd.device.payload import Payload, read_payload, write_payload
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Flags


class Inner(Payload):
    weight: float


class Example(Payload):
    folder: Path
    flags: Flags
    inner: Inner
    limit: float = math.inf
    maybe: Path | None = None


EXAMPLE = Example(
    folder=Path("a/b"),
    flags={"lr": 1e-05, "on": True, "off": False, "none": None, "n": 1, "x": 1.0, "list": [1, "b"]},
    inner=Inner(weight=0.1 + 0.2),
)


def main(payload: Example) -> None:
    assert payload


def test_what_was_written_is_read_in_the_same_types(tmp_path: Path) -> None:
    write_payload(tmp_path / "p.json", EXAMPLE)
    found = read_payload(main, tmp_path / "p.json")
    assert found == EXAMPLE
    assert {k: type(v) for k, v in found.flags.items()} == {
        k: type(v) for k, v in EXAMPLE.flags.items()
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inner": {}}, "field inner.weight: Field required"),
        ({"inner": {"weight": "heavy"}}, "field inner.weight: Input should be a valid number"),
        ({"more": 1}, "field more: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_file_is_one_line(change: dict[str, object], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(json.loads(EXAMPLE.model_dump_json()) | change))
    with pytest.raises(UserError, match=f"^{path}: no payload of .*test_payload: {reason}.*again$"):
        read_payload(main, path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"no payload of .*: field \(all of it\): Invalid JSON"):
        read_payload(main, path)
    with pytest.raises(UserError, match="nowhere: No such file"):
        read_payload(main, tmp_path / "nowhere")
