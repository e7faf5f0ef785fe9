"""Inputs whose content is no longer what their stage wrote are refused, and each is hashed once."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_dasd import manifests
from megatron_dasd.artifacts import StageFolder
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import MANIFEST, VERIFIED, file_sha256, read_manifest
from megatron_dasd.records import Message
from megatron_dasd.verification import verify_stages

FILES = {
    "parquet": "part-00000.parquet",
    "set aside": "set_aside-00000.parquet",
    "bin": "data/tokens.bin",
    "idx": "data/tokens.idx",
    "safetensors": "model/model.safetensors",
    "shard": "checkpoint/iter_0000001/__0_0.distcp",
    "shards' metadata": "checkpoint/iter_0000001/.metadata",
    "json": "model/config.json",
}
FLIPS = 100
"""Seeded single flipped bits in each kind of file."""


def finished_stage(path: Path) -> Path:
    """A finished stage with a file of every kind that stages write."""
    with StageFolder(path, path.name, "k", {}, {}) as folder:
        messages = [Message(role="user", content=f"question {n}") for n in range(20)]
        folder.write_part(0, Message, messages, {}, [{"reason": "bad", "record": "r"}])
        for name in FILES.values():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
        for name in ("bin", "idx", "shard", "shards' metadata"):
            (path / FILES[name]).write_bytes(random.Random(name).randbytes(500))
        save_file({"weight": torch.arange(100.0)}, path / FILES["safetensors"])
        (path / FILES["json"]).write_text(json.dumps({"hidden_size": 64}))
        folder.finish()
    return path


def flip(path: Path, draws: random.Random) -> bytes:
    """Flip one bit of a file; returns what it held before."""
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[draws.randrange(len(damaged))] ^= 1 << draws.randrange(8)
    path.write_bytes(damaged)
    return before


def fault_of(stage: Path) -> str | None:
    try:
        verify_stages([stage])
    except UserError as error:
        return str(error)
    return None


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return finished_stage(tmp_path / "before")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, in the order of their paths."""
    found: list[str] = []

    def count(path: Path) -> str:
        found.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(manifests, "file_sha256", count)
    return found


@pytest.mark.parametrize("kind", FILES)
def test_no_flipped_bit_is_used(stage: Path, kind: str) -> None:
    path, draws = stage / FILES[kind], random.Random(kind)
    verify_stages([stage])
    for _ in range(FLIPS):
        before = flip(path, draws)
        with pytest.raises(UserError) as caught:
            verify_stages([stage])
        message = (
            f"{path}: its content is not what stage before wrote; delete {stage} to run the "
            "stage again"
        )
        assert str(caught.value) == message
        path.write_bytes(before)
        verify_stages([stage])


def test_a_flipped_bit_of_a_manifest_is_a_fault_or_without_meaning(stage: Path) -> None:
    path, draws = stage / MANIFEST, random.Random(0)
    said = read_manifest(stage)
    assert said is not None
    for _ in range(3 * FLIPS):
        before = flip(path, draws)
        error = fault_of(stage)
        if error:
            assert error.count("\n") == 0
        else:
            found = read_manifest(stage)
            assert found is not None
            assert (found.files, found.digest) == (said.files, said.digest)
            assert (found.kind, found.settings, found.inputs) == ("k", {}, {})
        path.write_bytes(before)


def test_a_file_is_hashed_once(stage: Path, hashed: list[str]) -> None:
    verify_stages([stage])
    assert sorted(hashed) == sorted(Path(name).name for name in FILES.values())
    verify_stages([stage])
    assert len(hashed) == len(FILES)


def changed_time(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def replaced_by_its_copy(path: Path) -> None:
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=times)
    copy.replace(path)


@pytest.mark.parametrize("change", [changed_time, replaced_by_its_copy])
def test_a_file_that_may_have_changed_is_hashed_again(
    stage: Path, hashed: list[str], change: Callable[[Path], None]
) -> None:
    verify_stages([stage])
    hashed.clear()
    change(stage / FILES["bin"])
    verify_stages([stage])
    assert hashed == ["tokens.bin"]


def test_a_change_that_hides_its_time_is_found(stage: Path) -> None:
    verify_stages([stage])
    path = stage / FILES["safetensors"]
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    flip(path, random.Random(0))
    os.utime(path, ns=times)
    with pytest.raises(UserError, match="its content is not what stage before wrote"):
        verify_stages([stage])


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"\xff", b"[" * 100_000, b'{"data/tokens.bin": 7}']
)
def test_a_damaged_memory_is_none(stage: Path, hashed: list[str], content: bytes) -> None:
    (stage / VERIFIED).write_bytes(content)
    verify_stages([stage])
    assert len(hashed) == len(FILES)
    verify_stages([stage])
    assert len(hashed) == len(FILES)


def test_what_was_verified_beside_a_damaged_file_is_remembered(
    stage: Path, hashed: list[str]
) -> None:
    other = finished_stage(stage.with_name("other"))
    flip(other / FILES["json"], random.Random(0))
    with pytest.raises(UserError, match="stage other wrote"):
        verify_stages([stage, other])
    hashed.clear()
    verify_stages([stage])
    assert hashed == []


def test_a_stage_that_may_not_be_written_to_is_verified_too(stage: Path, hashed: list[str]) -> None:
    (stage / VERIFIED).mkdir()  # nothing can be put in its place, whoever runs the tests
    (stage / VERIFIED / "file").touch()
    verify_stages([stage])
    verify_stages([stage])
    assert len(hashed) == 2 * len(FILES)
    flip(stage / FILES["json"], random.Random(0))
    with pytest.raises(UserError, match=r"config.json: its content is not"):
        verify_stages([stage])


def test_what_a_user_brings_has_no_manifest(tmp_path: Path, hashed: list[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("{}")
    verify_stages([tmp_path / "model", tmp_path / "rows.jsonl"])
    assert hashed == []
