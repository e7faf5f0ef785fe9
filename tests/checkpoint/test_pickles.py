"""Checkpoints that would run a program when they are opened, and damaged ones."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from megatron_dasd.checkpoint.pickles import read_metadata
from megatron_dasd.errors import UserError

ENTRY = "common_state/shard_0_1"
EXTRA = "decoder.layers.mlp.linear_fc1._extra_state/shard_0_1"


class Malicious:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo owned > {self.path}",)


pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


def checkpoint(folder: Path, **entries: Any) -> Path:
    """What DCP itself saves of these entries and a tensor."""
    state = {"weight": torch.arange(6.0).reshape(2, 3)} | entries
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    save(state, checkpoint_id=folder, planner=planner, no_dist=True)
    return folder


def change(folder: Path, edit: Callable[[Any], None]) -> None:
    """Change a checkpoint's metadata."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c", **{ENTRY: {"iteration": 3, "dtype": torch.bfloat16}})
    metadata = read_metadata(folder)
    assert metadata.state_dict_metadata["weight"].size == torch.Size([2, 3])
    assert sorted(index.fqn for index in metadata.storage_data) == [ENTRY, "weight"]


def test_a_program_in_the_metadata_does_not_run(tmp_path: Path) -> None:
    folder, owned = checkpoint(tmp_path / "c"), tmp_path / "owned"
    (folder / ".metadata").write_bytes(pickle.dumps(Malicious(owned)))
    with pytest.raises(UserError, match=r"\.metadata: names posix\.system, which no checkpoint"):
        read_metadata(folder)
    assert not owned.exists()
    # and it is a real one: DCP's own reader runs it
    with pytest.raises(AttributeError):
        FileSystemReader(folder).read_metadata()
    assert owned.read_text() == "owned\n"


def test_a_program_in_an_entry_does_not_run(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    folder = checkpoint(tmp_path / "c", **{ENTRY: {"args": [Malicious(owned)]}})
    with pytest.raises(UserError, match=rf"{ENTRY}: names posix\.system, which no checkpoint"):
        read_metadata(folder)
    assert not owned.exists()
    # and it is a real one: a load through DCP, which is what Megatron does, runs it
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    load({ENTRY: {}}, checkpoint_id=folder, planner=planner, no_dist=True)
    assert owned.read_text() == "owned\n"


def saved_bytes(value: Any) -> torch.Tensor:
    """A pickle as the numbers of a tensor: how Transformer Engine keeps its state."""
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


class Nested:
    """Unpickled, it unpickles the bytes of another, as a tensor's storage does."""

    def __init__(self, value: Any, new_format: bool) -> None:
        self.data = io.BytesIO()
        torch.save(value, self.data, _use_new_zipfile_serialization=new_format)

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (self.data.getvalue(),)


def test_a_program_inside_an_extra_state_does_not_run(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    harmless = checkpoint(tmp_path / "a", **{EXTRA: [saved_bytes({"scale": torch.ones(3)})]})
    read_metadata(harmless)
    folder = checkpoint(tmp_path / "b", **{EXTRA: [saved_bytes({"scale": Malicious(owned)})]})
    with pytest.raises(UserError, match=r"_extra_state/shard_0_1: names posix\.system"):
        read_metadata(folder)
    for new_format in (True, False):
        nested = Nested(Malicious(owned), new_format)
        folder = checkpoint(tmp_path / f"c{new_format}", **{EXTRA: [saved_bytes(nested)]})
        with pytest.raises(UserError, match=r"_extra_state/shard_0_1: names posix\.system"):
            read_metadata(folder)
    assert not owned.exists()


def test_an_entry_that_is_a_plain_pickle(tmp_path: Path) -> None:
    folder, owned = checkpoint(tmp_path / "c", **{ENTRY: {}}), tmp_path / "owned"

    def grow(metadata: Any) -> None:
        (info,) = [v for k, v in metadata.storage_data.items() if k.fqn == ENTRY]
        info.length += len(old_format)

    path = next(folder.glob("*.distcp"))
    # torch.load would take the old format's pickle; the zip behind it is what a zip reader sees
    old_format = pickle.dumps(Malicious(owned))
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    (info,) = [v for k, v in metadata.storage_data.items() if k.fqn == ENTRY]
    data = path.read_bytes()
    entry = data[info.offset : info.offset + info.length]
    path.write_bytes(data[: info.offset] + old_format + entry + data[info.offset + info.length :])
    change(folder, grow)
    with pytest.raises(UserError, match="is not what torch.save writes: refused"):
        read_metadata(folder)


def test_a_common_file_of_an_older_checkpoint(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    torch.save({"iteration": 3}, folder / "common.pt")
    read_metadata(folder)
    torch.save(Malicious(tmp_path / "owned"), folder / "common.pt")
    with pytest.raises(UserError, match=r"common\.pt: names posix\.system"):
        read_metadata(folder)
    assert not (tmp_path / "owned").exists()


def test_a_path_that_leaves_the_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    for name in ("../secret.distcp", str(tmp_path / "secret.distcp")):
        (tmp_path / "secret.distcp").write_bytes(next(folder.glob("*.distcp")).read_bytes())

        def lead_out(metadata: Any, name: str = name) -> None:
            for info in metadata.storage_data.values():
                info.relative_path = name

        change(folder, lead_out)
        with pytest.raises(UserError, match=rf"\.metadata: {name} leaves the folder"):
            read_metadata(folder)


def test_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    path = next(folder.glob("*.distcp"))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{path.name} leaves the folder"):
        read_metadata(folder)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    path = next(folder.glob("*.distcp"))
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.raises(UserError, match=rf"{path.name}: is cut off: {len(data) - 40:,} bytes of"):
        read_metadata(folder)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}: is missing from the checkpoint"):
        read_metadata(folder)
    (folder / ".metadata").write_bytes((folder / ".metadata").read_bytes()[:50])
    with pytest.raises(UserError, match=r"\.metadata: pickle data was truncated"):
        read_metadata(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(UserError, match="no such file; wanted a torch_dist checkpoint"):
        read_metadata(folder)


def test_another_pickle_is_no_metadata(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="does not hold a checkpoint's metadata"):
        read_metadata(folder)
