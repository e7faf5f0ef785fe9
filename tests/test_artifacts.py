"""Stage folders: what a kill leaves behind, what a second attempt keeps, what is refused."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import (
    ATTEMPT,
    check_files,
    hash_files,
    input_digest,
    read_manifest,
    require_manifest,
)
from megatron_dasd.records import Message
from megatron_dasd.records_io import read_records
from megatron_dasd.replaced import replaced_folder, restore

NUM_PARTS = 2
FORK = multiprocessing.get_context("fork")
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def stage_folder(path: Path, content: str = "a") -> StageFolder:
    return StageFolder(path, "s", "k", {"content": content}, {"in": "0" * 64})


def messages(index: int, content: str = "a") -> list[Message]:
    return [Message(role="user", content=f"{content} {index} {n}") for n in range(2)]


def run_stage(path: Path, content: str = "a") -> None:
    """A small stage that uses all ways to write."""
    with stage_folder(path, content) as folder:
        for index in range(NUM_PARTS):
            if not folder.has_part(index):
                aside = [{"reason": "bad", "record": str(index)}]
                folder.write_part(index, Message, messages(index, content), {"kept": 2}, aside)
        scratch = folder.scratch("model")
        (scratch / "config.json").write_text(content)
        folder.commit(scratch)
        folder.write_json("facts.json", {"content": content})
        folder.finish(figures={"content": content})


def killed_at(event_number: int, path: Path, work: Callable[[], object]) -> bool:
    """Work on a folder in a process that kills itself at its n-th file operation there.

    Returns:
        Whether it got so far; False: it finished before.
    """

    def body() -> None:
        seen = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in FILE_EVENTS and path.name in str(arguments[0]):
                if seen == event_number:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(hook)
        work()

    process = FORK.Process(target=body)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def is_whole(path: Path) -> bool:
    """Whether a folder holds a finished result, every file as the manifest has it."""
    manifest = read_manifest(path)
    return manifest is not None and hash_files(path) == manifest.files


def assert_only_whole_parts(path: Path) -> None:
    for part in path.glob("part-*.parquet"):
        index = int(part.stem.removeprefix("part-"))
        contents = {record.content.split()[0] for record in read_records(part, Message)}
        assert list(read_records(part, Message)) == messages(index, *contents)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("left_before", [None, "b"])
def test_a_kill_at_any_file_operation_loses_and_doubles_nothing(
    tmp_path: Path, left_before: str | None
) -> None:
    run_stage(tmp_path / "reference")
    wanted = require_manifest(tmp_path / "reference")
    event_number, killed = 0, True
    while killed:
        path = tmp_path / f"killed-{event_number}"
        if left_before:  # what an attempt with other settings left is to be replaced
            run_stage(path, left_before)
        killed = killed_at(event_number, path, partial(run_stage, path))
        assert_only_whole_parts(path)
        manifest = read_manifest(path)
        assert manifest is None or manifest.figures == {"content": manifest.settings["content"]}
        if left_before:
            assert is_whole(path) or is_whole(replaced_folder(path))
        run_stage(path)
        assert require_manifest(path).digest == wanted.digest
        assert require_manifest(path).counts == {"kept": 2 * NUM_PARTS}
        assert sorted(p.name for p in path.iterdir()) == sorted(
            p.name for p in (tmp_path / "reference").iterdir()
        )
        assert not replaced_folder(path).exists()
        event_number += 1
    assert event_number > 10


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_while_the_old_result_comes_back_loses_nothing(tmp_path: Path) -> None:
    fingerprint = stage_folder(tmp_path, "b").fingerprint
    event_number, killed = 0, True
    while killed:
        path = tmp_path / f"killed-{event_number}"
        run_stage(path, "b")
        with stage_folder(path, "a") as folder:
            folder.write_part(0, Message, messages(0))
        killed = killed_at(event_number, path, partial(restore, path, fingerprint))
        assert is_whole(path) != is_whole(replaced_folder(path))
        restore(path, fingerprint)
        assert require_manifest(path).settings == {"content": "b"}
        assert is_whole(path)
        assert not replaced_folder(path).exists()
        event_number += 1
    assert event_number > 5


def test_only_the_result_of_the_same_fingerprint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "s"
    run_stage(path, "a")
    with stage_folder(path, "b"):
        pass
    with stage_folder(path, "c"):  # b was unfinished: a stays the result that is kept
        pass
    assert not restore(path, stage_folder(path, "b").fingerprint)
    assert require_manifest(replaced_folder(path)).settings == {"content": "a"}
    with stage_folder(path, "c"), pytest.raises(UserError, match="another process"):
        restore(path, stage_folder(path, "a").fingerprint)
    assert restore(path, stage_folder(path, "a").fingerprint)
    assert is_whole(path)


def test_a_result_behind_a_symbolic_link_stays_on_its_disk(tmp_path: Path) -> None:
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "big_disk" / "s")
    run_stage(tmp_path / "s", "a")
    with stage_folder(tmp_path / "s", "b"):
        assert is_whole(tmp_path / "big_disk" / ".s.replaced")
    run_stage(tmp_path / "s", "b")
    assert [path.name for path in (tmp_path / "big_disk").iterdir()] == ["s"]
    assert require_manifest(tmp_path / "big_disk" / "s").settings == {"content": "b"}


def test_a_second_attempt_keeps_whole_parts(tmp_path: Path) -> None:
    with stage_folder(tmp_path / "s") as folder:
        folder.write_part(0, Message, messages(0), {"kept": 2})
        before = folder.part_path(0).stat().st_mtime_ns
    with stage_folder(tmp_path / "s") as folder:
        assert folder.has_part(0)
        assert not folder.has_part(1)
        assert folder.part_path(0).stat().st_mtime_ns == before


def test_other_settings_start_the_folder_anew(tmp_path: Path) -> None:
    run_stage(tmp_path / "s", "a")
    with stage_folder(tmp_path / "s", "b") as folder:
        assert sorted(p.name for p in folder.path.iterdir()) == [".lock", ATTEMPT]
        assert json.loads((folder.path / ATTEMPT).read_text())["settings"] == {"content": "b"}


def test_a_foreign_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(UserError, match=r"holds files that no stage wrote \(thesis.txt, ...\)"),
        stage_folder(tmp_path),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        stage_folder(tmp_path / "s"),
        pytest.raises(UserError, match="another process is running this stage"),
        stage_folder(tmp_path / "s"),
    ):
        pass
    with stage_folder(tmp_path / "s"):
        pass


def test_the_manifest_tells_of_every_file(tmp_path: Path) -> None:
    with stage_folder(tmp_path / "s") as folder:
        folder.write_part(0, Message, messages(0), {"kept": 2, "dropped: x": 1})
        folder.write_part(1, Message, messages(1), {"kept": 2})
        (folder.path / "logs").mkdir()
        (folder.path / "logs" / "rank-0.log").write_text("no part of the result")
        manifest = folder.finish(figures={"x": 1})
    assert manifest.counts == {"kept": 4, "dropped: x": 1}
    assert sorted(manifest.files) == ["part-00000.parquet", "part-00001.parquet"]
    assert manifest.inputs == {"in": "0" * 64}
    assert read_manifest(tmp_path / "s") == manifest
    assert input_digest(tmp_path / "s") == manifest.digest


def test_counts_travel_with_the_part(tmp_path: Path) -> None:
    run_stage(tmp_path / "s")
    metadata = pq.read_schema(tmp_path / "s" / "part-00001.parquet").metadata
    assert json.loads(metadata[b"counts"]) == {"kept": 2}
    aside = pq.read_table(tmp_path / "s" / "set_aside-00001.parquet").to_pylist()
    assert aside == [{"reason": "bad", "record": "1", "detail": None}]


def test_a_file_that_went_missing_or_shrank_is_noticed(tmp_path: Path) -> None:
    run_stage(tmp_path / "s")
    manifest = require_manifest(tmp_path / "s")
    check_files(tmp_path / "s", manifest)
    part = tmp_path / "s" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"part-00001.parquet: is missing or has another size"):
        check_files(tmp_path / "s", manifest)
    part.unlink()
    with pytest.raises(UserError, match=r"part-00001.parquet: is missing"):
        check_files(tmp_path / "s", manifest)


def test_a_part_that_changed_is_not_read_again(tmp_path: Path) -> None:
    with stage_folder(tmp_path / "s") as folder:
        folder.write_part(1, Message, messages(1))
        path = folder.written_part(1)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match="its content is not what this stage wrote"):
            folder.written_part(1)


def test_a_part_that_changed_before_the_end_is_noticed(tmp_path: Path) -> None:
    for part in ("part-00001.parquet", "set_aside-00001.parquet"):
        with stage_folder(tmp_path / "s") as folder:
            aside = [{"reason": "bad", "record": "1"}]
            folder.write_part(1, Message, messages(1), {"kept": 2}, aside)
        path = tmp_path / "s" / part
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with (
            stage_folder(tmp_path / "s") as folder,
            pytest.raises(UserError, match=f"{part}: its content is not what this stage wrote"),
        ):
            folder.finish()
        path.unlink()
    run_stage(tmp_path / "s")
    assert not [*(tmp_path / "s").glob(".*.sha256")]  # the manifest has them


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("files", [], "files: Input should be an object"),
        ("files", {"../x": {"bytes": 1, "sha256": "0"}}, "'../x' is no path inside the folder"),
        ("files", {"/x": {"bytes": 1, "sha256": "0"}}, "'/x' is no path inside the folder"),
        ("files", {"x": {"bytes": 1}}, "files.x.sha256: Field required"),
        ("files", {}, "digest: is not that of the files"),
        ("settings", {"content": "b"}, "fingerprint: is not that of kind, settings and inputs"),
        ("seconds", None, "seconds: Input should be a valid number"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_one_line(
    tmp_path: Path, field: str, value: object, fault: str
) -> None:
    run_stage(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / "s")
    assert str(caught.value).startswith(f"{path}: damaged (")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xff", b"[" * 100_000, b"[]", b"null", b'{"fingerprint": 1}']
)
def test_a_damaged_attempt_is_another_attempt(tmp_path: Path, content: bytes) -> None:
    run_stage(tmp_path / "s")
    (tmp_path / "s" / ATTEMPT).write_bytes(content)
    run_stage(tmp_path / "s")
    assert require_manifest(tmp_path / "s").counts == {"kept": 2 * NUM_PARTS}
