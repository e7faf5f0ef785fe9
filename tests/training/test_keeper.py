"""Checkpoints sealed, pruned and given room, in folders as Megatron writes them."""

import os
import subprocess
from pathlib import Path

import pytest

from megatron_dasd.checkpoint.artifact import TRACKER
from megatron_dasd.checkpoint.seal import SEAL, damage
from megatron_dasd.errors import UserError
from megatron_dasd.training.keeper import Keeper


def save(saves: Path, iteration: int, whole: bool = True, size: int = 10) -> None:
    folder = saves / f"iter_{iteration:07d}"
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"w" * size)
    if whole:
        (folder / "metadata.json").write_text("{}")
        (saves / TRACKER).write_text(str(iteration))


def names(saves: Path) -> list[str]:
    return sorted(path.name for path in saves.glob("iter_*"))


def test_the_newest_are_kept_and_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    keeper = Keeper(tmp_path, 2, num_bytes=10)
    for iteration in (2, 4, 6):
        keeper.before_checkpoint(iteration)
        save(tmp_path, iteration)
        keeper.on_checkpoint(iteration)
    keeper.on_stage_end()
    assert names(tmp_path) == ["iter_0000004", "iter_0000006"]
    assert all((tmp_path / name / SEAL).exists() for name in names(tmp_path))
    assert all(damage(tmp_path / name) is None for name in names(tmp_path))


def test_what_is_still_being_written_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    keeper = Keeper(tmp_path, 1, num_bytes=10)
    save(tmp_path, 2)
    save(tmp_path, 4, whole=False)
    (tmp_path / "iter_0000004" / "metadata.json").write_text("{}")  # the tracker comes later
    keeper.on_checkpoint(4)
    keeper.before_checkpoint(6)
    assert names(tmp_path) == ["iter_0000002", "iter_0000004"]
    assert not (tmp_path / "iter_0000004" / SEAL).exists()
    (tmp_path / TRACKER).write_text("4")
    keeper.on_stage_end()
    assert names(tmp_path) == ["iter_0000004"]
    assert (tmp_path / "iter_0000004" / SEAL).exists()


def test_other_ranks_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    keeper = Keeper(tmp_path, 1, num_bytes=10)
    save(tmp_path, 2)
    save(tmp_path, 4)
    keeper.on_checkpoint(4)
    keeper.on_stage_end()
    assert names(tmp_path) == ["iter_0000002", "iter_0000004"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_no_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        first = Keeper(tmp_path, 2, num_bytes=5_000_000)
        with pytest.raises(UserError, match="iteration 2 needs 5 MB and 3 MB are free"):
            first.before_checkpoint(2)
        keeper = Keeper(tmp_path, 2, num_bytes=10)
        keeper.before_checkpoint(2)
        save(tmp_path, 2, size=2_000_000)
        wanted = r"iteration 4 needs 2 MB and 1 MB are free; make room, the same command goes on"
        with pytest.raises(UserError, match=wanted):
            keeper.before_checkpoint(4)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_checkpoint_that_is_written_again_is_sealed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    for size in (10, 12):  # a run that had ended, started again: it saves its last step once more
        keeper = Keeper(tmp_path, None, num_bytes=10)
        keeper.before_checkpoint(2)
        folder = tmp_path / "iter_0000002"
        folder.mkdir(exist_ok=True)
        (folder / "__0_0.distcp").write_bytes(b"w" * size)
        (folder / "metadata.json").write_text("{}")
        (tmp_path / TRACKER).write_text("2")
        keeper.on_checkpoint(2)
        keeper.on_stage_end()
        assert (folder / SEAL).exists()
        assert damage(folder) is None
