"""Manifests: what counts as finished, identities of inputs, what a stage rests on."""

from pathlib import Path

import pytest

from megatron_dasd import manifests
from megatron_dasd.artifacts import StageFolder
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import (
    MANIFEST,
    file_sha256,
    input_digest,
    lineage,
    model_folder,
    read_manifest,
)
from megatron_dasd.records import Prompt


def test_a_folder_is_hashed_once_as_long_as_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def count(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(manifests, "file_sha256", count)
    (tmp_path / "a").write_text("1")
    first = input_digest(tmp_path)
    assert input_digest(tmp_path) == first
    assert hashed == [tmp_path / "a"]
    (tmp_path / "b").write_text("2")
    second = input_digest(tmp_path)
    (tmp_path / "a").write_text("3")
    assert len({first, second, input_digest(tmp_path)}) == 3


def test_input_digest_of_what_a_user_brings(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.jsonl", tmp_path / "folder"
    file.write_text("x")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = input_digest(file), input_digest(folder)
    assert before[0] == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    (folder / "config.json").write_text("{ }")
    assert input_digest(file) == before[0]
    assert input_digest(folder) != before[1]
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        input_digest(tmp_path / "nowhere")


def test_an_unfinished_stage_is_no_input(tmp_path: Path) -> None:
    with StageFolder(tmp_path / "s", "s", "k", {}, {}):
        pass
    with pytest.raises(UserError, match=rf"s: no finished stage here \(no {MANIFEST}\)"):
        input_digest(tmp_path / "s")


def test_a_damaged_manifest_is_one_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"stage": "s"')
    with pytest.raises(UserError, match=r"manifest.json: damaged \(.*\); delete it"):
        read_manifest(tmp_path)


def test_model_folder(tmp_path: Path) -> None:
    model = tmp_path / "s" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    assert model_folder(tmp_path / "s") == tmp_path / "s" / "model"
    assert model_folder(tmp_path / "s" / "model") == tmp_path / "s" / "model"
    with pytest.raises(UserError, match="no Hugging Face model here"):
        model_folder(tmp_path)


def finished(path: Path, content: str, **inputs: str) -> str:
    """A finished stage in that folder; returns its digest."""
    with StageFolder(path, path.name, "k", {"content": content}, inputs) as folder:
        folder.write_json("facts.json", content)
        return folder.finish().digest


def test_lineage_is_what_a_stage_rests_on(tmp_path: Path) -> None:
    a = finished(tmp_path / "a", "a", **{"../user.jsonl": "0" * 64})
    b = finished(tmp_path / "b", "b", a=a)
    c = finished(tmp_path / "c", "c", a=a, b=b)
    finished(tmp_path / "other", "other")
    finished(tmp_path / "d", "d", c=c, a=a)
    assert [path.name for path in lineage(tmp_path / "d")] == ["a", "b", "c", "d"]
    assert lineage(tmp_path / "d")[tmp_path / "b"].digest == b
    # a folder that no longer holds what was read tells nothing, nor does what it rests on
    finished(tmp_path / "c", "changed", a=a)
    assert [path.name for path in lineage(tmp_path / "d")] == ["a", "d"]
    assert lineage(tmp_path / "nowhere") == {}


def test_outcomes_count_each_record_once(tmp_path: Path) -> None:
    with StageFolder(tmp_path / "filter", "filter", "filter_responses", {}, {}) as folder:
        counts = {"kept": 2, "kept T=0.6": 2, "dropped: loop": 1, "dropped T=0.6": 1}
        folder.write_part(0, Prompt, [], counts)
        manifest = folder.finish()
    assert manifest.outcomes == {"kept": 2, "dropped: loop": 1}
