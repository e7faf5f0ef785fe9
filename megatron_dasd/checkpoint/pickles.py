"""The pickles of a ``torch_dist`` checkpoint, opened by an unpickler that admits known names only.

A checkpoint's ``.metadata`` is a pickle, and so is every entry of it that is no tensor (arguments,
random states).  DCP and Megatron unpickle both with all of Python at the pickle's disposal, so a
checkpoint from elsewhere could run anything.  Here both are read first: a pickle that names
anything but what checkpoints are made of is refused before they open it.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)

from megatron_dasd.errors import UserError

METADATA = ".metadata"
_LEGACY_COMMON = "common.pt"

_DTYPES = {f"torch {name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_METADATA_NAMES = _DTYPES | {
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
_ENTRY_NAMES = _DTYPES | {
    *(
        f"torch {kind}Storage"
        for kind in ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long")
    ),
    "torch Size",
    "torch device",
    "torch._utils _rebuild_tensor_v2",
    "torch.storage UntypedStorage",
    "_codecs encode",
    "_io BytesIO",
    "argparse Namespace",
    "collections OrderedDict",
    "numpy dtype",
    "numpy ndarray",
    "numpy._core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy.dtypes UInt32DType",
    "pathlib PosixPath",
    "pathlib._local PosixPath",
    "signal Signals",
    "types SimpleNamespace",
    "megatron.core.enums ModelType",
    "megatron.core.optimizer.optimizer_config OptimizerConfig",
    "megatron.core.rerun_state_machine RerunDiagnostic",
    "megatron.core.rerun_state_machine RerunMode",
    "megatron.core.rerun_state_machine RerunState",
    "megatron.core.transformer.enums AttnBackend",
    "megatron.core.transformer.enums CudaGraphModule",
    "megatron.core.transformer.enums CudaGraphScope",
    "megatron.core.transformer.enums InferenceCudaGraphScope",
    *(
        f"transformer_engine.common.recipe {name}"
        for name in (
            "DelayedScaling",
            "Float8BlockScaling",
            "Float8CurrentScaling",
            "Format",
            "MMParams",
            "MXFP8BlockScaling",
            "NVFP4BlockScaling",
            "QParams",
            "_FormatHelper",
        )
    ),
    "megatron.core.extensions.transformer_engine TEDelayedScaling",
}
_ZIP = b"PK\x03\x04"
_UNKNOWN_FORMAT = "is not what torch.save writes: refused, it could be anything"
_NESTED_LOADERS = {
    "torch.storage _load_from_bytes",
    "megatron.core.safe_globals safe_load_from_bytes",
}
"""What a tensor in a plain pickle names: the bytes that it is given hold a pickle of their own."""


def read_metadata(folder: Path) -> Metadata:
    """Read a checkpoint's metadata and look through everything else in it that is a pickle.

    Args:
        folder: of one iteration, with ``.metadata`` and ``*.distcp`` files.

    Raises:
        UserError: a pickle names what no checkpoint is made of, or a file is damaged, missing or
            outside the folder.
    """
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted a torch_dist checkpoint") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises anything
        raise UserError(f"{path}: damaged ({error})") from None
    if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
        raise UserError(f"{path}: does not hold a checkpoint's metadata")
    _check_files(folder, metadata)
    _check_entries(folder, metadata)
    return metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Makes a checkpoint's metadata, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" not in _METADATA_NAMES:
            raise pickle.UnpicklingError(_refusal(module, name))
        return super().find_class(module, name)


class _Inert:
    """Stands for what is admitted in an entry: takes anything, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def __hash__(self) -> int:
        return id(self)


class _Inspector(pickle.Unpickler):
    """Looks through an entry's pickle; what it names stays a name, so nothing of it runs."""

    def find_class(self, module: str, name: str) -> Any:
        known = f"{module} {name}"
        if known in _NESTED_LOADERS:
            return _inspect_nested
        if known not in _ENTRY_NAMES:
            raise pickle.UnpicklingError(_refusal(module, name))
        return _Inert

    def persistent_load(self, _: Any) -> Any:
        return _Inert()


def _refusal(module: str, name: str) -> str:
    return f"names {module}.{name}, which no checkpoint needs: refused, it could run a program"


def _check_files(folder: Path, metadata: Metadata) -> None:
    """Every file that the metadata names lies in the folder and is as long as it says."""
    ends: dict[str, int] = {}
    for info in metadata.storage_data.values():
        if not isinstance(info, _StorageInfo) or not isinstance(info.relative_path, str):
            raise UserError(f"{folder / METADATA}: does not hold a checkpoint's metadata")
        ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
    for name, end in sorted(ends.items()):
        path = folder / name
        if Path(name).name != name or path.resolve().parent != folder.resolve():
            raise UserError(f"{folder / METADATA}: {name} leaves the folder")
        if not path.is_file():
            raise UserError(f"{path}: is missing from the checkpoint")
        if path.stat().st_size < end:
            raise UserError(
                f"{path}: is cut off: {path.stat().st_size:,} bytes of the {end:,} that the "
                "checkpoint says"
            )


def _check_entries(folder: Path, metadata: Metadata) -> None:
    """Look through every entry that is no tensor, and a ``common.pt`` of older checkpoints."""
    for index, info in metadata.storage_data.items():
        kind = metadata.state_dict_metadata.get(index.fqn)
        if isinstance(kind, BytesStorageMetadata):
            path = folder / info.relative_path
            with path.open("rb") as file:
                file.seek(info.offset)
                _check_entry(f"{path}: {index.fqn}", file.read(info.length))
        elif not isinstance(kind, TensorStorageMetadata):
            raise UserError(f"{folder / METADATA}: entry {index.fqn} is of no known kind")
    common = folder / _LEGACY_COMMON
    if common.exists():
        _check_entry(str(common), common.read_bytes())


def _check_entry(where: str, data: bytes) -> None:
    try:
        _inspect_archive(data, may_nest="_extra_state" in where)
    except pickle.UnpicklingError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:
        raise UserError(f"{where}: damaged ({error})") from None


def _inspect_archive(data: bytes, may_nest: bool = False) -> None:
    """Look through what ``torch.save`` wrote: a zip with a pickle and the tensors' bytes.

    Read by torch's own reader: what another one finds in a zip need not be what torch would load.

    Args:
        may_nest: whether a tensor's bytes may be a pickle, as Transformer Engine's extra states
            are, which it unpickles.
    """
    if data[:4] != _ZIP:
        raise pickle.UnpicklingError(_UNKNOWN_FORMAT)
    archive = torch._C.PyTorchFileReader(io.BytesIO(data))
    names = archive.get_all_records()
    if "constants.pkl" in names:
        raise pickle.UnpicklingError("holds a TorchScript program: refused")
    _Inspector(io.BytesIO(archive.get_record("data.pkl"))).load()
    for name in names if may_nest else ():
        content = archive.get_record(name)
        if name.startswith("data/") and content[:1] == pickle.PROTO and len(content) > 2:
            _Inspector(io.BytesIO(content)).load()


def _inspect_nested(data: bytes) -> _Inert:
    """Look through the bytes of a storage inside a plain pickle, in torch's new or old format."""
    if data[:4] == _ZIP:
        _inspect_archive(data)
        return _Inert()
    file = io.BytesIO(data)
    if _Inspector(file).load() != torch.serialization.MAGIC_NUMBER:
        raise pickle.UnpicklingError(_UNKNOWN_FORMAT)
    for _ in range(4):  # protocol, machine, the object, its storages' names; raw numbers follow
        _Inspector(file).load()
    return _Inert()
