"""Checkpoints that would run a program when they are opened, and damaged ones."""

import codecs
import io
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from megatron_dasd.checkpoint.pickles import allow_extra_states, read_metadata
from megatron_dasd.errors import UserError

ENTRY = "common_state/shard_0_1"
EXTRA = "decoder.layers.mlp.linear_fc1._extra_state/shard_0_1"


LAUGHS = b"Nq\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
"""A tuple whose hash takes 2 ** 60 steps."""


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
    with pytest.raises(UserError, match=r"\.metadata: holds a pickle that is cut off or damaged"):
        read_metadata(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(UserError, match="no such file; wanted a torch_dist checkpoint"):
        read_metadata(folder)


def test_another_pickle_is_no_metadata(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="does not hold a checkpoint's metadata"):
        read_metadata(folder)


def numbers(data: bytes) -> torch.Tensor:
    """Bytes as a tensor's."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def views(data: bytes, owned: Path) -> dict[str, Any]:
    """One pickle in every form in which Transformer Engine would come to unpickle it."""
    padded = data + b"\0" * (-len(data) % 4)
    apart = bytes(x for byte in data for x in (byte, 0))
    stream = io.BytesIO()
    torch.save(Malicious(owned), stream)
    return {
        "whole": numbers(data),
        "with an offset": numbers(b"x" + data)[1:],
        "with a first byte of its own storage": numbers(b"\0\0" + data)[2:],
        "strided": numbers(apart)[::2],
        "of two dimensions": numbers(padded).view(-1, 4),
        "of int32": numbers(padded).view(torch.int32),
        "of float64": numbers(data + b"\0" * (-len(data) % 8)).view(torch.float64),
        "of bool": numbers(data).view(torch.bool),
        "of int8": numbers(data).view(torch.int8),
        "a parameter": torch.nn.Parameter(numbers(data), requires_grad=False),
        "a stream": io.BytesIO(stream.getvalue()),
        "a stream of a plain pickle": io.BytesIO(data),
        "in a dict": {"state": numbers(data)},
        "in a tuple": (numbers(data),),
    }


@pytest.mark.parametrize("protocol", range(6))
def test_every_form_of_an_extra_state_is_looked_through(tmp_path: Path, protocol: int) -> None:
    owned = tmp_path / "owned"
    data = pickle.dumps(Malicious(owned), protocol=protocol)
    for number, (form, state) in enumerate(views(data, owned).items()):
        entry = state if isinstance(state, dict | tuple) else [state]
        folder = checkpoint(tmp_path / f"{number}", **{EXTRA: entry})
        with pytest.raises(UserError, match=rf"{EXTRA}: .+"):
            read_metadata(folder)
        assert not owned.exists(), form
    pickle.loads(data)
    assert owned.read_text() == "owned\n"  # and it is a real one


def test_views_of_a_harmless_extra_state_are_read(tmp_path: Path) -> None:
    data = pickle.dumps({"scale_fwd": torch.ones(3), "extra_fp8_variables": {"num_gemms": 2}})
    empty = torch.empty(0, dtype=torch.uint8)
    for number, state in enumerate((numbers(b"x" + data)[1:], empty, None)):
        read_metadata(checkpoint(tmp_path / f"{number}", **{EXTRA: [state]}))


def test_an_extra_state_within_another_entry(tmp_path: Path) -> None:
    state = {"model": {"decoder.layers.0.mlp.linear_fc1._extra_state": saved_bytes({})}}
    with pytest.raises(UserError, match=f"{ENTRY}: names an _extra_state within another entry"):
        read_metadata(checkpoint(tmp_path / "c", **{ENTRY: state}))


class Called:
    """Unpickled, it calls what a checkpoint may name, with arguments that none gives it."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Called(torch.UntypedStorage, 2**40), "damaged"),
        (Called(io.BytesIO, b"abc"), "no tensor of bytes"),
        (Called(np._core.multiarray._reconstruct, np.ndarray, (2**40,), b"b"), "NumPy array of"),
        (np.array([{}], dtype=object), "NumPy's type 'O8'"),
        (np.str_("model._extra_state"), "NumPy's type 'U18'"),
        (np.zeros(2, dtype=[("a", "i4")]), "NumPy's type 'V4'"),
        (Called(codecs.encode, "a", "zlib"), "codec 'zlib'"),
        (torch.zeros(1).expand(2**40), "tensor of 1,099,511,627,776 numbers in a storage of 1"),
        (Called(eval, "1"), "eval, which no checkpoint needs"),
        (Called(getattr, "torch", "load"), "getattr, which no checkpoint needs"),
    ],
)
def test_an_entry_that_asks_for_more_than_its_bytes(
    tmp_path: Path, value: object, said: str
) -> None:
    folder = checkpoint(tmp_path / "c", **{ENTRY: {"a": value}})
    with pytest.raises(UserError, match=said):
        read_metadata(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"(" * 500_000 + b"t" * 500_000 + b".",
        b"\x80\x02}" + b"(" * 500_000 + b"t" * 500_000 + b"Ns.",
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b".",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".",
        b"\x80\x02\x8b" + struct.pack("<i", -1) + b".",
        b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFF0) + b".",
        b"\x80\x02}" + LAUGHS + b"Ns.",
        b"\x80\x02(" + LAUGHS + b"\x91.",
        b"\x80\x02h\5.",
        b"\x80\x02R.",
        b"\x80\x02t.",
        b"\x80\x02N",
        b"\x80\x02cos",
        b"\x80\x02\x82\1.",
        b"\x80\x05\x97.",
        b"I1\n.",
        b"Vtext\n.",
        b"",
        b"\x80\x63N.",
    ],
    ids=range(20),
)
def test_a_pickle_whose_cost_is_not_bounded_by_its_length(tmp_path: Path, data: bytes) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / ".metadata").write_bytes(data)
    with pytest.raises(UserError, match=r"\.metadata: "):
        read_metadata(folder)


def described(folder: Path, fqn: str) -> Callable[[Any], Any]:
    """Where the metadata of a checkpoint says that an entry lies."""
    return lambda metadata: next(v for k, v in metadata.storage_data.items() if k.fqn == fqn)


@pytest.mark.parametrize("fqn", [ENTRY, "weight"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", -5),
        ("offset", "7"),
        ("offset", None),
        ("length", -1),
        ("length", 2**60),
        ("length", None),
        ("length", 1.5),
        ("relative_path", "a\0b"),
        ("relative_path", ""),
        ("relative_path", "."),
        ("relative_path", ".."),
        ("relative_path", 3),
        ("transform_descriptors", ["stream.zstd"]),
    ],
)
def test_a_place_that_is_none(tmp_path: Path, fqn: str, field: str, value: object) -> None:
    folder = checkpoint(tmp_path / "c", **{ENTRY: {"a": 1}})
    place = described(folder, fqn)
    change(folder, lambda metadata: setattr(place(metadata), field, value))
    with pytest.raises(UserError, match="c/"):
        read_metadata(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda metadata: metadata.storage_data.update(k=next(iter(metadata.storage_data.values()))),
        lambda metadata: setattr(metadata, "storage_data", []),
        lambda metadata: setattr(metadata, "state_dict_metadata", None),
        lambda metadata: metadata.state_dict_metadata.update({3: None}),
        lambda metadata: metadata.state_dict_metadata.pop("weight"),
        lambda metadata: setattr(metadata.state_dict_metadata["weight"], "chunks", [None]),
        lambda metadata: setattr(metadata.state_dict_metadata["weight"], "size", (2, 3)),
        lambda metadata: setattr(metadata.state_dict_metadata["weight"], "properties", None),
        lambda metadata: setattr(
            metadata.state_dict_metadata["weight"].chunks[0], "sizes", torch.Size([2**40, 3])
        ),
        lambda metadata: setattr(
            metadata.state_dict_metadata["weight"].chunks[0], "sizes", torch.Size([-2, -3])
        ),
    ],
    ids=range(10),
)
def test_metadata_that_describes_nothing(tmp_path: Path, edit: Callable[[Any], None]) -> None:
    folder = checkpoint(tmp_path / "c")
    change(folder, edit)
    with pytest.raises(UserError, match=r"\.metadata: "):
        read_metadata(folder)


def test_a_compressed_record(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    torch.save({"state": torch.zeros(10**6)}, folder / "common.pt")
    read_metadata(folder)
    stored = zipfile.ZipFile(folder / "common.pt")
    contents = {name: stored.read(name) for name in stored.namelist()}
    stored.close()
    with zipfile.ZipFile(folder / "common.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    torch.load(folder / "common.pt")  # torch would unpack it
    with pytest.raises(UserError, match=r"common\.pt: holds the compressed record 'data.pkl'"):
        read_metadata(folder)


def test_a_common_file_that_is_none(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    common = folder / "common.pt"
    for make in (common.mkdir, lambda: os.mkfifo(common), lambda: common.symlink_to("/etc/hosts")):
        make()
        with pytest.raises(UserError, match=r"common\.pt"):
            read_metadata(folder)
        common.rmdir() if common.is_dir() else common.unlink()


def test_mutated_bytes_are_refused_or_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c", **{ENTRY: {"a": [1, 2]}, EXTRA: [saved_bytes({"a": 1})]})
    draw = random.Random(0)
    for path in (folder / ".metadata", next(folder.glob("*.distcp"))):
        whole = path.read_bytes()
        for _ in range(100):
            data = bytearray(whole)
            at = draw.randrange(len(data))
            match draw.randrange(3):
                case 0:
                    data[at] = draw.randrange(256)
                case 1:
                    del data[at : at + draw.randrange(40)]
                case 2:
                    data[at:at] = draw.randbytes(draw.randrange(40))
            path.write_bytes(data)
            with suppress(UserError):
                read_metadata(folder)
        path.write_bytes(whole)
    read_metadata(folder)


def test_transformer_engine_unpickles_behind_the_inspection_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"
    monkeypatch.setenv(name, "0")
    allow_extra_states()
    assert os.environ[name] == "1"
