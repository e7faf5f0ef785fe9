from pathlib import Path

from megatron_dasd.checkpoint.artifact import TRACKER
from megatron_dasd.checkpoint.tracker import keep_only, repair


def save(saves: Path, iteration: int, whole: bool = True) -> Path:
    folder = saves / f"iter_{iteration:07d}"
    folder.mkdir(parents=True)
    (folder / "__0_0.distcp").write_text("weights")
    if whole:
        (folder / "metadata.json").write_text("{}")
    return folder


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert repair(tmp_path / "never made") == 0


def test_an_empty_tracker_is_mended_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    (tmp_path / TRACKER).write_text("")
    assert repair(tmp_path) == 10
    assert (tmp_path / TRACKER).read_text() == "10"


def test_a_half_written_checkpoint_goes(tmp_path: Path) -> None:
    save(tmp_path, 5)
    torn = save(tmp_path, 10, whole=False)
    (tmp_path / TRACKER).write_text("5")
    assert repair(tmp_path) == 5
    assert not torn.exists()
    assert (tmp_path / TRACKER).read_text() == "5"


def test_one_whose_last_file_was_cut_off_is_half_written(tmp_path: Path) -> None:
    save(tmp_path, 5)
    torn = save(tmp_path, 10)
    (torn / "metadata.json").write_text("")
    (tmp_path / TRACKER).write_text("5")
    assert repair(tmp_path) == 5
    assert not torn.exists()


def test_a_tracker_of_nothing_goes(tmp_path: Path) -> None:
    save(tmp_path, 5, whole=False)
    (tmp_path / TRACKER).write_text("5")
    assert repair(tmp_path) == 0
    assert not (tmp_path / TRACKER).exists()


def test_keep_only(tmp_path: Path) -> None:
    old, new = save(tmp_path, 5), save(tmp_path, 10)
    keep_only(tmp_path, 10)
    assert not old.exists()
    assert new.exists()
