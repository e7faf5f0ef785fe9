"""Hugging Face folders: config, companions, and safetensors read one at a time.

Nothing is unpickled, no code in a folder is run, and no file outside it is read or written.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_dasd.errors import UserError
from megatron_dasd.models.hf_config import HfConfig
from megatron_dasd.paths import inside

GIGABYTE = 10**9
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}
README = "README.md"
"""A model's card."""
_GO_ALONG = (".jinja", ".json", ".md", ".model", ".tiktoken", ".txt")
"""How files are called that go with the weights from folder to folder, and those without a dot."""
_STAY = (README, INDEX, "adapter_config.json", "trainer_state.json")
TEMPLATES = "additional_chat_templates"
"""Chat templates beside the first one, each a file of its own."""
_ADAPTER = "adapter_*"
_OWN_CODE = "auto_map"
"""In JSON: which code of the folder's own is to be run; none is, and none is carried along."""
_STACKED = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)")
"""The experts of a layer in one tensor, ``[experts, 2F, H]`` and ``[experts, H, F]``."""

_SIZES_BOUND = {
    "num_hidden_layers": "tensors",
    "hidden_size": "values",
    "intermediate_size": "values",
    "vocab_size": "values",
    "num_attention_heads": "values",
    "num_key_value_heads": "values",
    "head_dim": "values",
    "num_experts": "values",
    "num_local_experts": "values",
    "n_routed_experts": "values",
}
"""What of the weights bounds a size that a config names."""


@dataclass(frozen=True)
class TensorInfo:
    """Shape and type of a tensor, as its file's header has them."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of its numbers."""
        return prod(self.shape) * self.dtype.itemsize


class Place(NamedTuple):
    """Where a tensor lies."""

    file: Path
    stored: str
    """Name of the tensor that holds it."""
    slices: tuple[int | slice, ...]
    """Its part of that; none: all of it."""
    shape: tuple[int, ...]
    """Of the tensor that holds it."""


type _Part = tuple[str, tuple[int | slice, ...], tuple[int, ...]]
"""A tensor within a stored one: its name, its slices there (none: all of it), its shape."""


class HfWeights:
    """The tensors of a folder by name, read one at a time.

    Raises:
        UserError: no safetensors there, an index that leaves the folder or does not agree with the
            files, a damaged file, a tensor that is neither bfloat16 nor float32.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for adapter in sorted(folder.glob(_ADAPTER)):
            raise UserError(
                f"{adapter}: an adapter lies beside the weights, which transformers would add to "
                "them and this import would not; merge it into them, or take it away"
            )
        self._place_of: dict[str, Place] = {}
        self.tensors: dict[str, TensorInfo] = {}
        """By name, in no order; experts that are stacked in a file are tensors of their own."""
        self._found: set[str] = set()
        index = _read_index(folder)
        for path in _weight_files(folder, index):
            self._read_header(path, index)
        for name, file in sorted(index.items()):
            if name not in self._found:
                raise UserError(f"{folder / file}: tensor {name} of {INDEX} is missing in it")

    def _read_header(self, path: Path, index: Mapping[str, str]) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # no mapping
                    part = file.get_slice(name)
                    info = (tuple(part.get_shape()), part.get_dtype())
                    self._add(path, name, *info, listed=not index or index.get(name) == path.name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None

    def _add(self, path: Path, name: str, shape: tuple[int, ...], dtype: str, listed: bool) -> None:
        if not listed:
            raise UserError(f"{path}: holds tensor {name}, which {INDEX} does not place there")
        if dtype not in DTYPES:
            raise UserError(
                f"{path}: tensor {name} is of type {dtype}; only {', '.join(DTYPES)} are supported"
            )
        self._found.add(name)
        parts: Iterable[_Part] = [(name, (), shape)]
        if (stacked := _STACKED.fullmatch(name)) and len(shape) == 3:
            parts = _unstacked(stacked[1], stacked[2], *shape)
        for part, where, size in parts:
            self._place_of[part] = Place(path, name, where, shape)
            self.tensors[part] = TensorInfo(size, DTYPES[dtype])

    def names(self) -> set[str]:
        """All tensors' names."""
        return set(self._place_of)

    def files(self) -> set[Path]:
        """All files that hold tensors."""
        return {place.file for place in self._place_of.values()}

    def place(self, name: str) -> Place:
        """Where a tensor lies."""
        return self._place_of[name]

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            UserError: no tensor of that name.
        """
        if name not in self._place_of:
            raise UserError(f"{self.folder}: tensor {name} is missing")
        place = self._place_of[name]
        # opened again for each: a file kept open keeps in memory all that was ever read of it
        with safe_open(place.file, framework="pt") as file:
            if not place.slices:
                return file.get_tensor(place.stored)  # type: ignore[no-any-return]
            return file.get_slice(place.stored)[place.slices]  # type: ignore[no-any-return]


def find_weights(folder: Path) -> HfWeights | None:
    """The weights of a folder that may have none.

    Raises:
        UserError: it has some, and they are not what :class:`HfWeights` reads.
    """
    has_any = (folder / INDEX).exists() or (folder / SINGLE).exists()
    return HfWeights(folder) if has_any else None


def _unstacked(experts: str, kind: str, number: int, rows: int, columns: int) -> Iterator[_Part]:
    """The tensors of each expert in a stacked one.

    Args:
        experts: the layer's.
        kind: ``gate_up_proj``, which holds two, or ``down_proj``.
    """
    names = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
    size = rows // len(names)
    for expert in range(number):
        for part, name in enumerate(names):
            where = (expert, slice(part * size, (part + 1) * size))
            yield f"{experts}.{expert}.{name}.weight", where, (size, columns)


def _read_index(folder: Path) -> dict[str, str]:
    """File by tensor; empty where there is no index, or one file that goes before it.

    ``transformers`` looks for them in the same order.
    """
    path = folder / INDEX
    if not path.exists() or (folder / SINGLE).exists():
        return {}
    try:
        index = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not an index of safetensors files ({error})") from None
    if not isinstance(index, dict) or not all(isinstance(x, str) for x in index.values()):
        raise UserError(f"{path}: field weight_map: must give a file's name for every tensor")
    return index


def _weight_files(folder: Path, index: Mapping[str, str]) -> list[Path]:
    names = sorted(set(index.values())) or [SINGLE]
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{folder / INDEX}: {name} leaves the folder or is no safetensors file")
    if not index and not (folder / SINGLE).exists():
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLES)
        if pickles:
            raise UserError(
                f"{folder}: only pickled weights here ({pickles[0]}), which are not opened; "
                "convert them to safetensors where you trust them"
            )
    return [inside(folder, name) for name in names]


def check_weights(folder: Path) -> None:
    """Check that the weights lie in the folder, are whole, and fit the sizes in its config.

    For folders that a library loads, which may hold types that :class:`HfWeights` does not read.

    Raises:
        UserError: naming the file.
    """
    config, num_tensors, num_values = read_config(folder), 0, 0
    for path in _weight_files(folder, _read_index(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
        num_tensors += len(shapes)
        num_values += sum(prod(shape) for shape in shapes)
    inner = config.get("text_config")
    for values in (config, inner if isinstance(inner, dict) else {}):
        for name, most in _SIZES_BOUND.items():
            value = values.get(name)
            limit = num_tensors if most == "tensors" else num_values
            if isinstance(value, int) and value > limit:
                raise UserError(
                    f"{folder / 'config.json'}: field {name}: {value} is more than the weights "
                    f"have {most} ({limit:,})"
                )


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what goes with the weights: config, tokenizer, templates, licence and their like."""
    for path in sorted(source.iterdir()):
        if _goes_along(path):
            shutil.copyfile(inside(source, path.name), folder / path.name)
            if path.suffix == ".json":
                _drop_own_code(folder / path.name)
    for path in sorted((source / TEMPLATES).glob("*.jinja")):
        (folder / TEMPLATES).mkdir(exist_ok=True)
        name = f"{TEMPLATES}/{path.name}"
        shutil.copyfile(inside(source, name), folder / name)


def _goes_along(path: Path) -> bool:
    named = path.suffix in _GO_ALONG or (not path.suffix and not path.name.startswith("."))
    weights = path.name.endswith(".index.json")
    return path.is_file() and named and not weights and path.name not in _STAY


def _drop_own_code(path: Path) -> None:
    """Take the names of code that stays behind out of a JSON file."""
    text = path.read_bytes()
    if _OWN_CODE.encode() not in text:
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return  # who reads it says so
    if isinstance(content, dict) and _OWN_CODE in content:
        del content[_OWN_CODE]
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def set_dtype(folder: Path, dtype: str) -> None:
    """Set the type of the weights in a folder's config; all other fields stay as they are."""
    config = read_config(folder)
    named = {name: dtype for name in ("dtype", "torch_dtype") if name in config} or {"dtype": dtype}
    if config | named != config:
        (folder / "config.json").write_text(json.dumps(config | named, indent=2) + "\n")


def read_config(folder: Path) -> HfConfig:
    """A folder's ``config.json``.

    Raises:
        UserError: not there, or not a JSON object.
    """
    path = inside(folder, "config.json")
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a JSON object")
    return config


def weights_dtype(folder: Path) -> str:
    """Type of a folder's weights by its config: ``bfloat16`` or ``float32``.

    A multimodal model's config may say it of the text model alone.

    Raises:
        UserError: another type.
    """
    config = read_config(folder)
    inner = config.get("text_config")
    named = [x for x in (config, inner) if isinstance(x, dict)]
    found = [x.get("dtype") or x.get("torch_dtype") for x in named]
    dtype = next((x for x in found if x), "float32")
    if dtype not in ("bfloat16", "float32"):
        raise UserError(
            f"{folder / 'config.json'}: field dtype: {dtype} is neither bfloat16 nor float32"
        )
    return str(dtype)


def require_space(folder: Path, num_bytes: int) -> None:
    """Make sure that a disk has room before anything is written.

    Raises:
        UserError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{folder}: {num_bytes / GIGABYTE:.1f} GB are to be written and "
            f"{free / GIGABYTE:.1f} GB are free; make room or choose another disk"
        )
