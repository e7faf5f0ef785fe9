"""Which files of a user's folder are read, and for which split."""

import json
from pathlib import Path

import pytest

from megatron_dasd.errors import UserError
from megatron_dasd.sources.user_files import UserFile, user_files


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder: Path, *args: dict[str, str]) -> dict[str, str]:
    files = user_files(folder, *args)  # type: ignore[arg-type]
    return {str(file.path.relative_to(folder)): file.split for file in files}


def test_a_file_is_what_it_is_asked_for(tmp_path: Path) -> None:
    file = touch(tmp_path, "test.jsonl") / "test.jsonl"
    assert user_files(file) == [UserFile(file, "train")]


def test_all_kinds_are_read_and_the_others_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.jsonl", "b.jsonl.gz", "c.json", "d/e.parquet", "f.ndjson.zst", "g.arrow"]
    folder = touch(tmp_path / "d", *names, "notes.csv", "README.md", ".git/x.json")
    assert found(folder) == dict.fromkeys(sorted(names), "train")
    assert capsys.readouterr().out == f"{folder}: not read: README.md, notes.csv\n"


@pytest.mark.parametrize(
    ("names", "heldout"),
    [
        (["train.jsonl", "test.jsonl", "dev.jsonl.gz"], ["dev.jsonl.gz", "test.jsonl"]),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
          "data/validation-00000-of-00001.parquet"], ["data/validation-00000-of-00001.parquet"]),
        (["train/a.jsonl", "test/a.jsonl"], ["test/a.jsonl"]),
        (["math_eval_v2.jsonl", "contest.jsonl", "latest.jsonl"], ["math_eval_v2.jsonl"]),
        (["train_sft-00000-of-00001-ab12.parquet", "test_sft-00000-of-00001-cd34.parquet"],
         ["test_sft-00000-of-00001-cd34.parquet"]),
    ],
)  # fmt: skip
def test_splits_by_the_names_of_files(tmp_path: Path, names: list[str], heldout: list[str]) -> None:
    files = found(touch(tmp_path / "d", *names))
    assert files.keys() == set(names)
    assert sorted(name for name, split in files.items() if split == "heldout") == heldout


def test_splits_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{split}-00000-of-00001.parquet" for split in ("train_sft", "train_gen", "test_sft")]
    folder = touch(tmp_path / "d", *names)
    with pytest.raises(UserError) as caught:
        user_files(folder)
    assert str(caught.value) == (
        f"{folder}: splits train_gen, train_sft could each be the one that trains; say which are "
        "read, e.g. splits: {train_gen: train}"
    )
    assert found(folder, {"test_sft": "train"}) == {names[2]: "train"}
    assert capsys.readouterr().out == f"{folder}: not read: {names[1]}, {names[0]}\n"
    with pytest.raises(
        UserError, match="no split train .there are: test_sft, train_gen, train_sft"
    ):
        user_files(folder, {"train": "train"})


def saved(folder: Path, split: str) -> Path:
    touch(folder, "data-00000-of-00001.arrow", "dataset_info.json")
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_folders_that_datasets_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(saved(tmp_path / "one", "test")) == {"data-00000-of-00001.arrow": "heldout"}
    for split in ("train", "test"):
        saved(tmp_path / "all" / split, split)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert found(tmp_path / "all") == {
        "train/data-00000-of-00001.arrow": "train",
        "test/data-00000-of-00001.arrow": "heldout",
    }
    assert capsys.readouterr().out == ""
    (tmp_path / "all" / "test" / "state.json").unlink()
    with pytest.raises(
        UserError, match=r"test/state.json: is not there; was the data set saved wh"
    ):
        user_files(tmp_path / "all")
    (tmp_path / "one" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match=r"state.json: names data-00000-of-00001.arrow, which is n"):
        user_files(tmp_path / "one")


def test_folders_with_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="d: no files of rows here: a.csv, b.txt"):
        user_files(touch(tmp_path / "d", "a.csv", "b.txt"))
    with pytest.raises(UserError, match="none: no such file or folder"):
        user_files(tmp_path / "none")
