from pathlib import Path

from megatron_dasd.checkpoint.artifact import TRACKER
from megatron_dasd.checkpoint.seal import is_sealed, write_seal
from megatron_dasd.checkpoint.tracker import keep_only, make_way, repair, whole


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


def test_a_run_that_went_back_goes_on_from_where_it_is(tmp_path: Path) -> None:
    for iteration in (2, 4, 6, 8):
        write_seal(save(tmp_path, iteration))
    (tmp_path / TRACKER).write_text("4")  # set back by hand
    assert repair(tmp_path) == 4
    names = sorted(path.name for path in tmp_path.glob("*iter_*"))
    assert names == ["given_up_iter_0000006", "given_up_iter_0000008", *names[2:]]
    assert names[2:] == ["iter_0000002", "iter_0000004"]


def test_a_kill_before_the_tracker_loses_nothing(tmp_path: Path) -> None:
    write_seal(save(tmp_path, 2))
    (tmp_path / TRACKER).write_text("2")
    save(tmp_path, 4)  # whole, and not yet named or sealed
    assert repair(tmp_path) == 4


def test_later_checkpoints_make_way_for_one_that_is_written_again(tmp_path: Path) -> None:
    folders = [save(tmp_path, iteration) for iteration in (4, 6, 8)]
    for folder in folders:
        write_seal(folder)
    make_way(tmp_path, 6)
    assert whole(tmp_path) == folders[:1]
    assert not is_sealed(folders[1])
    assert (tmp_path / "given_up_iter_0000008").is_dir()


def test_a_kill_while_one_is_written_again(tmp_path: Path) -> None:
    for iteration in (2, 3):
        write_seal(save(tmp_path, iteration))
    (tmp_path / TRACKER).write_text("3")
    make_way(tmp_path, 3)
    assert repair(tmp_path) == 2


def test_folders_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "iter_notes").mkdir()
    save(tmp_path, 5)
    assert repair(tmp_path) == 5
    assert (tmp_path / "iter_notes").is_dir()
