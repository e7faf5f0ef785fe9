"""The pickles of a ``torch_dist`` checkpoint, opened by an unpickler that admits known names only.

A checkpoint's ``.metadata`` is a pickle, and so is every entry of it that is no tensor (arguments,
random states).  DCP and Megatron unpickle both with all of Python at the pickle's disposal, so a
checkpoint from elsewhere could run anything.  Here both are read first: a pickle that names
anything but what checkpoints are made of is refused before they open it.
"""

import io
import os
import pickle
from math import prod
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from megatron_dasd.checkpoint.inspection import DTYPES, EXTRA_STATE, check_entry, refusal
from megatron_dasd.checkpoint.opcodes import check_opcodes
from megatron_dasd.errors import UserError

METADATA = ".metadata"
_LEGACY_COMMON = "common.pt"
_NO_METADATA = "does not hold a checkpoint's metadata"
_UNPICKLES_EXTRA_STATE = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"

_METADATA_NAMES = DTYPES | {
    "torch Size",
    "torch.serialization _get_layout",
    "torch.distributed.checkpoint.filesystem _StorageInfo",
    "pathlib PosixPath",
    "pathlib._local PosixPath",
    *(
        f"torch.distributed.checkpoint.metadata {name}"
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    *(
        f"torch.distributed.checkpoint.planner {name}"
        for name in (
            "BytesIOWriteData",
            "SavePlan",
            "TensorWriteData",
            "WriteItem",
            "WriteItemType",
        )
    ),
}


def read_metadata(folder: Path) -> Metadata:
    """Read a checkpoint's metadata and look through everything else in it that is a pickle.

    Args:
        folder: of one iteration, with ``.metadata`` and ``*.distcp`` files.

    Raises:
        UserError: a pickle names what no checkpoint is made of, or a file is damaged, missing or
            outside the folder.
    """
    path = folder / METADATA
    if not path.exists():
        raise UserError(f"{path}: no such file; wanted a torch_dist checkpoint")
    metadata = _unpickled(_file(folder, METADATA, path))
    try:
        _check_types(path, metadata)
        _check_files(folder, metadata)
        _check_entries(folder, metadata)
    except UserError:
        raise
    except Exception as error:  # an object of it may lack any attribute
        raise UserError(f"{path}: damaged ({_shown(error)})") from None
    return metadata


def allow_extra_states() -> None:
    """Let Transformer Engine unpickle the extra states of checkpoints that this process loads.

    It refuses them by default.  To be called when :func:`read_metadata` has passed each checkpoint
    that this process is going to load, and only then.
    """
    os.environ[_UNPICKLES_EXTRA_STATE] = "1"


def _unpickled(path: Path) -> Metadata:
    data = path.read_bytes()
    try:
        check_opcodes(data)
        metadata = _MetadataUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises anything
        raise UserError(f"{path}: damaged ({_shown(error)})") from None
    if not isinstance(metadata, Metadata):
        raise UserError(f"{path}: {_NO_METADATA}")
    return metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Makes a checkpoint's metadata, and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if f"{module} {name}" not in _METADATA_NAMES:
            raise pickle.UnpicklingError(refusal(module, name))
        return super().find_class(module, name)


def _check_types(path: Path, metadata: Metadata) -> None:
    """Everything that is used of the metadata is of the type that it should be."""
    kinds, places = metadata.state_dict_metadata, metadata.storage_data
    if not isinstance(kinds, dict) or not isinstance(places, dict):
        raise UserError(f"{path}: {_NO_METADATA}")
    for name, kind in kinds.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: {_NO_METADATA}")
        if isinstance(kind, TensorStorageMetadata):
            _check_tensor(path, name, kind)
        elif not isinstance(kind, BytesStorageMetadata):
            raise UserError(f"{path}: entry {name} is of no known kind")
    for index, info in places.items():
        whole = isinstance(index, MetadataIndex) and isinstance(info, _StorageInfo)
        if not whole or not isinstance(index.fqn, str) or index.fqn not in kinds:
            raise UserError(f"{path}: {_NO_METADATA}")
        values = vars(info)
        if values.get("transform_descriptors"):
            raise UserError(f"{path}: entry {index.fqn} is compressed, which is not supported")
        if not isinstance(values.get("relative_path"), str):
            raise UserError(f"{path}: {_NO_METADATA}")
        if not all(_is_count(values.get(name)) for name in ("offset", "length")):
            raise UserError(f"{path}: entry {index.fqn} has an impossible offset or length")


def _check_tensor(path: Path, name: str, kind: TensorStorageMetadata) -> None:
    if EXTRA_STATE in name:
        raise UserError(f"{path}: entry {name} is a tensor of many ranks: refused")
    dtype = getattr(getattr(kind, "properties", None), "dtype", None)
    chunks = vars(kind).get("chunks")
    whole = isinstance(dtype, torch.dtype) and isinstance(chunks, list) and _is_size(kind.size)
    if not whole or not all(
        isinstance(chunk, ChunkStorageMetadata)
        and _is_size(vars(chunk).get("offsets"))
        and _is_size(vars(chunk).get("sizes"))
        for chunk in chunks or ()
    ):
        raise UserError(f"{path}: tensor {name} is described in an impossible way")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _is_size(value: object) -> bool:
    return isinstance(value, torch.Size) and all(number >= 0 for number in value)


def _check_files(folder: Path, metadata: Metadata) -> None:
    """Every file that the metadata names lies in the folder and is as long as it says."""
    ends: dict[str, int] = {}
    sizes = {
        (name, chunk.offsets): prod(chunk.sizes) * kind.properties.dtype.itemsize
        for name, kind in metadata.state_dict_metadata.items()
        if isinstance(kind, TensorStorageMetadata)
        for chunk in kind.chunks
    }
    for index, info in metadata.storage_data.items():
        if sizes.get((index.fqn, index.offset), 0) > info.length:
            raise UserError(f"{folder / METADATA}: tensor {index.fqn} is larger than its place")
        ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
    for name, end in sorted(ends.items()):
        path = _file(folder, name, folder / METADATA)
        if path.stat().st_size < end:
            raise UserError(
                f"{path}: is cut off: {path.stat().st_size:,} bytes of the {end:,} that the "
                "checkpoint says"
            )


def _file(folder: Path, name: str, named_by: Path) -> Path:
    """A file that really lies in a folder.

    Raises:
        UserError: it does not, or it is no plain file.
    """
    path = folder / name
    if "\0" in name or Path(name).name != name or path.resolve().parent != folder.resolve():
        raise UserError(f"{named_by}: {ascii(name)[1:-1]} leaves the folder")
    if not path.is_file():
        raise UserError(f"{path}: is missing from the checkpoint, or is no file")
    return path


def _check_entries(folder: Path, metadata: Metadata) -> None:
    """Look through every entry that is no tensor, and a ``common.pt`` of older checkpoints."""
    for index, info in metadata.storage_data.items():
        if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
            path = folder / info.relative_path
            with path.open("rb") as file:
                file.seek(info.offset)
                _check_entry(f"{path}: {index.fqn}", file.read(info.length), index.fqn)
    common = folder / _LEGACY_COMMON
    if common.exists() or common.is_symlink():
        _check_entry(str(common), _file(folder, _LEGACY_COMMON, common).read_bytes(), common.name)


def _check_entry(where: str, data: bytes, name: str) -> None:
    try:
        check_entry(data, extra_state=EXTRA_STATE in name)
    except pickle.UnpicklingError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:
        raise UserError(f"{where}: damaged ({_shown(error)})") from None


def _shown(error: Exception) -> str:
    """An error's first line, or its kind."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
