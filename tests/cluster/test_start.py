"""Starting again and again, and nodes that are bad."""

import json
from pathlib import Path

import pytest

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.cluster.nodes import bad_nodes, known_bad_nodes, remember_bad_nodes
from megatron_dasd.cluster.start import note_start, progress_marker
from megatron_dasd.config.cluster import Cluster
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.errors import UserError


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    cluster = Cluster(max_fruitless_starts=2)
    return Pipeline(tmp_path / "p.yaml", "p", tmp_path / "run", 1, {}, cluster)


def test_starts_without_progress_are_bounded(pipeline: Pipeline) -> None:
    for _ in range(2):
        note_start(pipeline, "train", "7")
    with pytest.raises(UserError, match=r"stage train: 2 starts of job 7 without progress \(max"):
        note_start(pipeline, "train", "7")
    note_start(pipeline, "train", "8")  # submitted again, by someone who has looked
    starts = json.loads((pipeline.run_dir / "jobs" / "starts" / "train.json").read_text())
    assert [start["job"] for start in starts] == ["8"]


def test_progress_in_between_begins_the_count_anew(pipeline: Pipeline) -> None:
    saves = pipeline.stage_dir("train") / "checkpoint"
    for iteration in range(6):
        note_start(pipeline, "train", "7")
        (saves / f"iter_{iteration}").mkdir(parents=True)
    note_start(pipeline, "train", "7")
    note_start(pipeline, "train", "7")
    with pytest.raises(UserError, match="without progress"):
        note_start(pipeline, "train", "7")


def test_what_comes_and_goes_is_no_progress(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    nothing = progress_marker(folder)
    folder.mkdir()
    for name in ("logs", "logs/rank-0.log", "attempt.json", ".lock"):
        path = folder / name
        path.mkdir() if name == "logs" else path.write_text("x")
    assert progress_marker(folder) == nothing
    (folder / ".shards.tmp").mkdir()
    begun = progress_marker(folder)
    (folder / ".shards.tmp" / ".00001.host.3.tmp").mkdir()
    assert progress_marker(folder) == begun
    (folder / ".shards.tmp" / "00001").mkdir()
    assert progress_marker(folder) != begun
    shards = progress_marker(folder)
    write_atomic(folder / "part-00000.parquet", b"")
    assert progress_marker(folder) != shards


def test_bad_nodes_are_named_and_remembered(pipeline: Pipeline) -> None:
    assert bad_nodes("node1\t\nnode2\t\n", 2) == {}
    found = bad_nodes("node1\t\nnode2\t7 GPUs answer, 8 are given\n", 2)
    assert found == {"node2": "7 GPUs answer, 8 are given"}
    assert bad_nodes("node2\tdead\n", 3) == {"node2": "dead"}
    with pytest.raises(UserError, match="ran on 1 of 2 nodes"):
        bad_nodes("srun: something\nnode1\t\n", 2)
    remember_bad_nodes(pipeline, found)
    remember_bad_nodes(pipeline, {"node3": "dead", "node2": "dead too"})
    assert known_bad_nodes(pipeline) == {"node2": "dead too", "node3": "dead"}
