"""Entries of a checkpoint, looked through without running anything that they name.

An entry is what ``torch.save`` wrote: a zip with a pickle and the storages of its tensors.  An
extra state of Transformer Engine is a tensor whose numbers are a pickle of their own, which the
engine unpickles: the very bytes that it would take are looked through too.
"""

import io
import pickle
import re
from math import prod

import torch

from megatron_dasd.checkpoint.opcodes import check_opcodes

EXTRA_STATE = "_extra_state"
"""In the name of an entry that Transformer Engine unpickles once more."""
_ZIP = b"PK\x03\x04"
_PICKLE = "data.pkl"
_UNKNOWN_FORMAT = "is not what torch.save writes: refused, it could be anything"
_OLD_EXTRA_STATE = (
    "holds an extra state that is no tensor of bytes (Transformer Engine 1): refused; save the "
    "checkpoint again with Transformer Engine 2"
)
DTYPES = frozenset(
    f"torch {name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)
)
_STORAGES = {
    "torch BFloat16Storage": 2,
    "torch BoolStorage": 1,
    "torch ByteStorage": 1,
    "torch CharStorage": 1,
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch IntStorage": 4,
    "torch LongStorage": 8,
    "torch.storage UntypedStorage": 1,
}
"""Bytes of a number in each type of storage."""
_ENTRY_NAMES = DTYPES | {
    "torch Size",
    "torch device",
    "argparse Namespace",
    "numpy._core.multiarray scalar",
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
"""Names of an entry that stand for an inert object, whatever they are given."""
_NUMBERS = re.compile(r"[<>=|]?[biufc]\d{1,2}|\?|bool")
"""NumPy's codes of types that hold no objects and no text."""


def check_entry(data: bytes, extra_state: bool) -> None:
    """Look through an entry.

    Args:
        extra_state: whether Transformer Engine unpickles the tensors in it.

    Raises:
        pickle.UnpicklingError: it names what no checkpoint needs, or holds more than its bytes.
    """
    names = _check_archive(data, _EXTRA_STATE_NAMES if extra_state else _ENTRY_NAMES)
    if not extra_state:
        # among the common state it would be handed to a module as if it were an entry
        if EXTRA_STATE.encode() in names:
            raise pickle.UnpicklingError(f"names an {EXTRA_STATE} within another entry: refused")
        return
    # nothing but tensors and containers is named in it
    value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for state in value if isinstance(value, list | tuple) else (value,):
        if state is None:
            continue
        if not isinstance(state, torch.Tensor) or state.dtype != torch.uint8:
            raise pickle.UnpicklingError(_OLD_EXTRA_STATE)
        # as Transformer Engine makes them: views and offsets are followed
        inner = state.detach().cpu().numpy().tobytes()
        if inner:
            _Inspector(_ENTRY_NAMES).inspect(inner)


def refusal(module: str, name: str) -> str:
    """What is said of a pickle that names something unknown."""
    return f"names {module}.{name}, which no checkpoint needs: refused, it could run a program"


class _Inert:
    """Stands for an object of an admitted kind: takes anything, does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, _: object, __: object) -> None: ...

    def append(self, _: object) -> None: ...

    def extend(self, _: object) -> None: ...

    def __hash__(self) -> int:
        return id(self)


class _Marker:
    """Stands for a type that is only ever an argument; to call it is an error."""

    def __init__(self, itemsize: int = 0) -> None:
        self.itemsize = itemsize


class _Storage:
    """Stand-in for a tensor's storage; only the size is used."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items


class _Dtype(_Inert):
    """NumPy's type of numbers."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"holds NumPy's type {str(code)[:40]!r}: refused")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("holds a NumPy type of parts: refused")


def _reconstruct(_: object, shape: object, __: object) -> _Inert:
    if shape != (0,):
        raise pickle.UnpicklingError(f"holds a NumPy array of {str(shape)[:40]} items: refused")
    return _Inert()


def _encode(_: object, codec: object) -> _Inert:
    if codec != "latin1":
        raise pickle.UnpicklingError(f"names the codec {str(codec)[:40]!r}: refused")
    return _Inert()


def _ordered_dict() -> _Inert:
    """Made empty, and then given its items."""
    return _Inert()


def _bytes_io(*_: object) -> _Inert:
    raise pickle.UnpicklingError(_OLD_EXTRA_STATE)


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _Inert:
    """Check that a tensor is no larger than its storage."""
    shape = (offset, *size, *stride)
    if any(not isinstance(number, int) or number < 0 for number in shape):
        raise pickle.UnpicklingError("holds a tensor of an impossible shape: refused")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) and max(prod(size), last + 1) > storage.num_items:
        raise pickle.UnpicklingError(
            f"holds a tensor of {prod(size):,} numbers in a storage of {storage.num_items:,}: "
            "refused"
        )
    return _Inert()


_STANDS_FOR: dict[str, object] = {
    **{name: _Marker(itemsize) for name, itemsize in _STORAGES.items()},
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "_codecs encode": _encode,
    "collections OrderedDict": _ordered_dict,
    "_io BytesIO": _bytes_io,
    "numpy dtype": _Dtype,
    "numpy ndarray": _Marker(),
    "numpy._core.multiarray _reconstruct": _reconstruct,
    "numpy.core.multiarray _reconstruct": _reconstruct,
}
"""What the names of an entry become that look at what they are given."""
_EXTRA_STATE_NAMES = frozenset[str]()


class _Inspector:
    """Looks through pickles; what they name stays a name, so nothing of it runs."""

    def __init__(self, admitted: frozenset[str], archive: "_Archive | None" = None) -> None:
        """Look through the pickle of an archive, or a plain one.

        Args:
            admitted: names that stand for an inert object.
            archive: whose storages a persistent id may name.
        """
        self._admitted, self._archive = admitted, archive

    def inspect(self, data: bytes, start: int = 0) -> tuple[object, int]:
        """One pickle.

        Returns:
            What it makes, and where it ends.
        """
        end = check_opcodes(data, start)
        unpickler = _Unpickler(io.BytesIO(data[start:end]))
        unpickler.admitted, unpickler.archive = self._admitted, self._archive
        return unpickler.load(), end


class _Unpickler(pickle.Unpickler):
    admitted: frozenset[str]
    archive: "_Archive | None"

    def find_class(self, module: str, name: str) -> object:
        known = f"{module} {name}"
        if known in _STANDS_FOR:
            return _STANDS_FOR[known]
        if self.archive is None and known in _NESTED_LOADERS:
            return _inspect_nested
        if known not in self.admitted:
            raise pickle.UnpicklingError(refusal(module, name))
        return _Inert

    def persistent_load(self, pid: object) -> object:
        if self.archive is None:
            # the old format of torch.save: its storages follow, and are sized by it
            return _Storage(_num_items(pid))
        return self.archive.storage(pid)


def _num_items(pid: object) -> int:
    match pid:
        case ("storage", _Marker(), str(), str(), int(num_items), *_) if num_items >= 0:
            return num_items
    raise pickle.UnpicklingError("names a storage in an unknown way: refused")


class _Archive:
    """A zip, read by torch's own reader: what another one finds in it need not be what torch loads.

    Raises:
        pickle.UnpicklingError: it is none, holds a program, or a record of it is compressed.
    """

    def __init__(self, data: bytes) -> None:
        if data[:4] != _ZIP:
            raise pickle.UnpicklingError(_UNKNOWN_FORMAT)
        self._reader = torch._C.PyTorchFileReader(io.BytesIO(data))
        self._sizes: dict[str, int] = {}
        for name in self._reader.get_all_records():
            size = self._reader.get_record_size(name)
            start = self._reader.get_record_offset(name)  # type: ignore[attr-defined]  # of no stub
            if start + size > len(data) or self._reader.get_record(name) != data[start:][:size]:
                raise pickle.UnpicklingError(f"holds the compressed record {name[:80]!r}: refused")
            self._sizes[name] = size
        if "constants.pkl" in self._sizes:
            raise pickle.UnpicklingError("holds a TorchScript program: refused")

    def pickle(self) -> bytes:
        """The pickle of the object."""
        content: bytes = self._reader.get_record(_PICKLE)
        return content

    def storage(self, pid: object) -> _Storage:
        """The storage that a persistent id names."""
        match pid:
            case ("storage", _Marker(itemsize=itemsize), str(key), str(), int(num_items)):
                size = self._sizes.get(f"data/{key}")
                if itemsize and size is not None and size == num_items * itemsize:
                    return _Storage(num_items)
        raise pickle.UnpicklingError("names a storage that it does not hold: refused")


def _check_archive(data: bytes, admitted: frozenset[str]) -> bytes:
    """Look through a zip and return its pickle."""
    archive = _Archive(data)
    content = archive.pickle()
    _Inspector(admitted, archive).inspect(content)
    return content


_NESTED_LOADERS = {
    "torch.storage _load_from_bytes",
    "megatron.core.safe_globals safe_load_from_bytes",
}
"""What a tensor in a plain pickle names: the bytes that it is given hold a pickle of their own."""


def _inspect_nested(data: object) -> _Storage:
    """Look through the bytes of a storage inside a plain pickle, in torch's new or old format."""
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError(_UNKNOWN_FORMAT)
    if data[:4] == _ZIP:
        _check_archive(data, _ENTRY_NAMES)
        return _Storage(len(data))
    inspector = _Inspector(_ENTRY_NAMES)
    magic, end = inspector.inspect(data)
    if magic != torch.serialization.MAGIC_NUMBER:
        raise pickle.UnpicklingError(_UNKNOWN_FORMAT)
    for _ in range(4):  # protocol, machine, the object, its storages' names; raw numbers follow
        _, end = inspector.inspect(data, end)
    return _Storage(len(data))
